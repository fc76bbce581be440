// The recipes.
//
// dattn_cnn: airbench94's (arXiv 2404.00498) with attention by AdamW. Filters learn by Muon, biases and head by SGD on
// the summed loss, everything falling linearly to 0; the whitening bias learns for three epochs. The rates
// are those for 2,000 images a step; for B they keep their meaning (docs/training.md): SGD's rates belong to a summed
// loss and stay, its decay is so much an image; Muon's and AdamW's steps have a length of their own, so their rates go
// with sqrt(B / 2000), as does AdamW's decay; the warm-up is 40,000 images long. dattn_cnn_wide: the same with what
// airbench96 changes: a longer schedule, stronger augmentation, lower rates. resnet18: SGD with Nesterov momentum on
// the mean loss, rate proportional to B, a short warm-up, then a cosine.
#include "train/recipe.h"

#include <algorithm>
#include <cmath>

#include "core/tile_block.h"
#include "optim/adam.h"
#include "optim/muon.h"
#include "optim/schedule.h"
#include "optim/sgd.h"
#include "train/dattn_cnn.h"

namespace dattn {

namespace {

// Parameters of a member of a model, named by their paths in the model, that have one of the roles.
template <typename M>
std::vector<NamedParameter> members(const char* name, M& member, std::initializer_list<Role> roles) {
  detail::Collect collect;
  static_cast<Visitor&>(collect)(name, member);
  std::erase_if(collect.parameters, [&](const NamedParameter& p) {
    return std::find(roles.begin(), roles.end(), p.parameter.role()) == roles.end();
  });
  return std::move(collect.parameters);
}

void append(std::vector<NamedParameter>& to, std::vector<NamedParameter> from) {
  std::move(from.begin(), from.end(), std::back_inserter(to));
}

// --- dattn_cnn ---

class DattnCnnRecipe final : public Recipe {
 public:
  DattnCnnRecipe(const TrainOptions& options, const RecipePlan& plan, DattnCnn& model, std::int64_t steps,
                 std::int64_t steps_per_epoch)
      : Recipe(groups_of(model)),
        whiten_bias_(model.whiten.bias),
        whiten_steps_(kWhitenEpochs * steps_per_epoch),
        falling_(schedule::linear(1, 0, steps)),
        whiten_falling_(schedule::linear(1, 0, whiten_steps_)) {
    const auto batch = static_cast<double>(plan.batch_size);
    const double root = std::sqrt(batch / kBatch), decay = kDecay * batch;
    const double factor = options.lr_scale * (options.model == "dattn_cnn_wide" ? kWideRates : 1);
    bias_lr_ = kBiasLr * factor;
    head_lr_ = kHeadLr * factor;
    filter_lr_ = kFilterLr * factor * root;
    attention_lr_ = kAttentionLr * factor * root;
    const auto warm_steps = static_cast<std::int64_t>(std::ceil(kWarmUpImages / batch));
    warming_ = schedule::warm_up(warm_steps, falling_);
    sgd_ = add<Sgd>({{flat().group(kWhiten), bias_lr_, decay / kBiasLr},
                     {flat().group(kNorms), bias_lr_, decay / kBiasLr},
                     {flat().group(kHead), head_lr_, decay / kHeadLr}},
                    SgdOptions{.momentum = 0.85, .nesterov = true});
    muon_ = add<Muon>({{flat().group(kFilters), filter_lr_}}, MuonOptions{.momentum = 0.6,
                                                                          .nesterov = true,
                                                                          .newton_schulz = {.steps = 3},
                                                                          .scale = MuonScale::none,
                                                                          .normalise_weights = true});
    if (model.attention0 || model.attention1 || model.attention2) {
      adamw_ = add<AdamW>({{flat().group(kAttention), attention_lr_, 0.01 * root, 1 / batch}},
                          AdamOptions{.beta1 = 0.9, .beta2 = 0.95});
    }
  }

  void prepare(std::int64_t step) override {
    whiten_bias_.set_trainable(step < whiten_steps_);
    sgd_->groups()[0].lr = bias_lr_ * whiten_falling_(step);
    sgd_->groups()[1].lr = bias_lr_ * falling_(step);
    sgd_->groups()[2].lr = head_lr_ * falling_(step);
    muon_->groups()[0].lr = filter_lr_ * falling_(step);
    if (adamw_) adamw_->groups()[0].lr = attention_lr_ * warming_(step);
  }

  double learning_rate() const override { return muon_->groups()[0].lr; }

 private:
  static constexpr double kBatch = 2000, kDecay = 2e-6, kBiasLr = 0.053, kHeadLr = 0.67, kFilterLr = 0.24,
                          kAttentionLr = 2e-3, kWideRates = 0.78;
  static constexpr double kWarmUpImages = 40000;
  static constexpr std::int64_t kWhitenEpochs = 3;
  enum Group : std::size_t { kWhiten, kNorms, kHead, kFilters, kAttention };

  static std::vector<std::vector<NamedParameter>> groups_of(DattnCnn& model) {
    std::vector<std::vector<NamedParameter>> groups(5);
    groups[kWhiten] = members("whiten", model.whiten, {Role::vector});
    groups[kHead] = members("head", model.head, {Role::matrix});
    const auto add_group = [&](const char* name, ConvGroup& group) {
      append(groups[kFilters], members(name, group, {Role::matrix}));
      append(groups[kNorms], members(name, group, {Role::vector}));
    };
    add_group("group1", model.group1);
    add_group("group2", model.group2);
    add_group("group3", model.group3);
    for (auto [name, block] : {std::pair("attention0", &model.attention0),
                               {"attention1", &model.attention1},
                               {"attention2", &model.attention2}}) {
      append(groups[kAttention], members(name, *block, {Role::matrix, Role::vector, Role::table}));
    }
    if (groups[kAttention].empty()) groups.pop_back();
    return groups;
  }

  Parameter whiten_bias_;
  std::int64_t whiten_steps_;
  double bias_lr_, head_lr_, filter_lr_, attention_lr_;
  Schedule falling_, whiten_falling_, warming_;
  Sgd* sgd_;
  Muon* muon_;
  AdamW* adamw_ = nullptr;
};

// --- resnet18 ---

class Resnet18Recipe final : public Recipe {
 public:
  Resnet18Recipe(const TrainOptions& options, const RecipePlan& plan, Classifier& model, std::int64_t steps,
                 std::int64_t steps_per_epoch)
      : Recipe(group_by_role(parameters(model), {{Role::matrix}, {Role::vector}})) {
    const double lr = kLr * options.lr_scale * static_cast<double>(plan.batch_size) / kBatch;
    rate_ = schedule::warm_up(steps_per_epoch, schedule::cosine(lr, 0, steps));
    sgd_ =
        add<Sgd>({{flat().group(0), lr, kDecay}, {flat().group(1), lr}}, SgdOptions{.momentum = 0.9, .nesterov = true});
  }

  void prepare(std::int64_t step) override {
    for (ParameterGroup& group : sgd_->groups()) group.lr = rate_(step);
  }
  double learning_rate() const override { return sgd_->groups()[0].lr; }

 private:
  static constexpr double kBatch = 128, kLr = 0.1, kDecay = 5e-4;

  Schedule rate_;
  Sgd* sgd_;
};

// bfloat16 where the processor has instructions for it, and the model has been measured with it (docs/results.md). On a
// GPU nothing has been measured yet.
Dtype usual_precision(const TrainOptions& options, Device device) {
  const bool measured = options.model == "dattn_cnn" && device == Device::cpu;
  return measured && tile_block() ? Dtype::bfloat16 : Dtype::float32;
}

}  // namespace

RecipePlan plan_recipe(const TrainOptions& options, Device device) {
  RecipePlan plan;
  if (options.model == "resnet18") {
    plan = {.epochs = 30,
            .batch_size = 128,
            .reduction = Reduction::mean,
            .augment = {.translate = 4, .flip = Flip::random}};
  } else {
    plan = {.epochs = 8,
            .batch_size = 1000,
            .label_smoothing = 0.2,
            .reduction = Reduction::sum,
            .augment = {.translate = 2, .flip = Flip::alternating}};
    if (options.model == "dattn_cnn_wide") {
      plan.epochs = 32;
      plan.augment = {.translate = 4, .flip = Flip::alternating, .cutout = 12};
    }
    if (options.data == "synthetic") plan.epochs = 0.8, plan.batch_size = 200;
  }
  if (options.epochs > 0) plan.epochs = options.epochs;
  if (options.batch_size > 0) plan.batch_size = options.batch_size;
  plan.precision = options.precision.empty() ? usual_precision(options, device) : precision_type(options.precision);
  return plan;
}

void Recipe::step() {
  for (const auto& optimizer : optimizers_) optimizer->step();
  flat_.zero_grad();
}

void Recipe::update() {
  for (const auto& optimizer : optimizers_) optimizer->update();
  flat_.zero_grad();
}

std::vector<NamedTensor> Recipe::state() {
  std::vector<NamedTensor> all;
  for (const auto& optimizer : optimizers_) {
    for (auto& tensor : optimizer->state()) all.push_back(std::move(tensor));
  }
  return all;
}

std::unique_ptr<Recipe> make_recipe(const TrainOptions& options, const RecipePlan& plan, Classifier& model,
                                    std::int64_t steps, std::int64_t steps_per_epoch) {
  if (auto* cnn = dynamic_cast<DattnCnn*>(&model))
    return std::make_unique<DattnCnnRecipe>(options, plan, *cnn, steps, steps_per_epoch);
  return std::make_unique<Resnet18Recipe>(options, plan, model, steps, steps_per_epoch);
}

}  // namespace dattn
