// Command line and JSON form of the training options.
#include "train/options.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <sstream>

#include "core/error.h"
#include "core/state_file.h"
#include "train/command_line.h"

namespace dattn {

namespace {
bool is_positive(double value) { return value > 0 && std::isfinite(value); }
}  // namespace

ModelOptions model_options(const TrainOptions& o, std::int64_t classes) {
  return {o.model, o.attention, classes, o.attention_maps, o.attention_stride};
}

nlohmann::json result_options(const TrainOptions& o) {
  return {{"data", o.data},
          {"model", o.model},
          {"attention", o.attention},
          {"attention-maps", o.attention_maps},
          {"attention-stride", o.attention_stride},
          {"epochs", o.epochs},
          {"batch-size", o.batch_size},
          {"lr-scale", o.lr_scale},
          {"seed", o.seed},
          {"holdout", o.holdout},
          {"ema", o.ema},
          {"precision", o.precision}};
}

nlohmann::json all_options(const TrainOptions& o) {
  nlohmann::json all = result_options(o);
  all.update({{"device", o.device},
              {"out", o.out},
              {"threads", o.threads},
              {"max-steps", o.max_steps},
              {"save-every", o.save_every},
              {"eval-every", o.eval_every},
              {"warm-up", o.warm_up},
              {"resume", o.resume}});
  return all;
}

std::string resume_options(const TrainOptions& o) {
  const TrainOptions usual;
  std::string text;
  if (o.device != usual.device) text += " --device " + o.device;
  if (o.threads != usual.threads) text += fmt::format(" --threads {}", o.threads);
  if (o.save_every != usual.save_every) text += fmt::format(" --save-every {}", o.save_every);
  if (o.eval_every != usual.eval_every) text += fmt::format(" --eval-every {}", o.eval_every);
  if (o.warm_up) text += " --warm-up";
  return text;
}

void set_result_options(TrainOptions& o, const nlohmann::json& saved, const std::string& path) {
  try {
    saved.at("data").get_to(o.data);
    saved.at("model").get_to(o.model);
    saved.at("attention").get_to(o.attention);
    saved.at("epochs").get_to(o.epochs);
    saved.at("lr-scale").get_to(o.lr_scale);
    const auto whole = [&](const char* name) {
      check(saved.at(name).is_number_integer(), "checkpoint {}: expected a whole number of {}", path, name);
      return saved.at(name).get<std::int64_t>();
    };
    o.batch_size = whole("batch-size");
    o.holdout = whole("holdout");
    const std::int64_t seed = whole("seed");
    check(seed >= 0, "checkpoint {}: expected a seed of at least 0, got {}", path, seed);
    o.seed = static_cast<std::uint64_t>(seed);
    saved.at("ema").get_to(o.ema);
    // Runs before there was a choice.
    const TrainOptions usual;
    o.precision = saved.value("precision", "float32");
    o.attention_maps = saved.value("attention-maps", usual.attention_maps);
    o.attention_stride = saved.value("attention-stride", usual.attention_stride);
  } catch (const nlohmann::json::exception& e) {
    fail("checkpoint {}: its options cannot be read ({})", path, e.what());
  }
  const bool positive = is_positive(o.epochs) && is_positive(o.lr_scale) && o.batch_size >= 1 && o.holdout >= 0 &&
                        o.attention_stride >= 1;
  if (!positive) fail("checkpoint {}: expected positive numbers in its options, got {}", path, saved.dump());
  for (const auto& [name, found] : {std::pair(std::span(kModels), o.model), {std::span(kAttentions), o.attention}}) {
    check(std::find(name.begin(), name.end(), found) != name.end(),
          "checkpoint {}: expected one of {} in its options, got {}", path, fmt::join(name, ", "), shown(found));
  }
}

namespace {

// Reads --config. Every option has one value there; the maps' sides may also be written as a list.
class OneValueConfig : public CLI::ConfigBase {
 public:
  explicit OneValueConfig(const CLI::App& app) : app_(app) {}

  std::vector<CLI::ConfigItem> from_config(std::istream& file) const override {
    std::string text(kMostBytes + 1, '\0');
    file.read(text.data(), static_cast<std::streamsize>(text.size()));
    text.resize(static_cast<std::size_t>(file.gcount()));
    expect(!file.bad(), "the file cannot be read");
    expect(text.size() <= kMostBytes, "expected a file of at most 1 MiB");
    std::istringstream lines(text);
    std::vector<CLI::ConfigItem> read = ConfigBase::from_config(lines);
    for (CLI::ConfigItem& item : read) {
      expect(item.parents.empty(),
             fmt::format("expected lines `name = value`, found a section [{}]", fmt::join(item.parents, ".")));
      const CLI::Option* option = app_.get_option_no_throw("--" + item.name);
      expect(option && option->get_configurable(),  // --config and --help are not
             "expected names of options that --help lists, found " + item.name);
      if (item.name == "attention-maps") item.inputs = {fmt::format("{}", fmt::join(item.inputs, ","))};
      expect(item.inputs.size() == 1,
             fmt::format("expected one value for {}, found {}", item.name, item.inputs.empty() ? "none" : "several"));
    }
    return read;
  }

 private:
  static constexpr std::size_t kMostBytes = 1 << 20;

  void expect(bool ok, const std::string& why) const {
    if (!ok) throw CLI::ValidationError("--config " + app_.get_option("--config")->as<std::string>(), why);
  }

  const CLI::App& app_;
};

// "31,15" as the sides of maps, from large to small. Error where there are no such maps.
std::vector<std::int64_t> parse_maps(const std::string& text) {
  std::vector<std::int64_t> sides;
  for (const std::string& side : CLI::detail::split(text, ',')) {
    const auto known = std::find_if(std::begin(kAttentionMaps), std::end(kAttentionMaps),
                                    [&](std::int64_t s) { return std::to_string(s) == CLI::detail::trim_copy(side); });
    if (known == std::end(kAttentionMaps)) {
      throw CLI::ValidationError("--attention-maps", fmt::format("expected some of {} with commas between, got {}",
                                                                 fmt::join(kAttentionMaps, ", "), text));
    }
    sides.push_back(*known);
  }
  std::sort(sides.rbegin(), sides.rend());
  sides.erase(std::unique(sides.begin(), sides.end()), sides.end());
  return sides;
}

// What is wrong with one attention option beside the others is wrong usage.
void check_attention(const CLI::App& app, const TrainOptions& o) {
  const auto refuse = [](const char* option, const std::string& why) { throw CLI::ValidationError(option, why); };
  for (const char* option : {"--attention", "--attention-maps", "--attention-stride"}) {
    if (app.count(option) > 0 && !has_attention(o.model))
      refuse(option, "belongs to --model dattn_cnn and dattn_cnn_wide; " + o.model + " has no attention");
  }
  if (app.count("--attention-maps") > 0 && o.attention == "none")
    refuse("--attention-maps", "belongs to --attention dattention and self; with none there are no blocks");
  if (app.count("--attention-stride") > 0 && o.attention != "dattention")
    refuse("--attention-stride", "belongs to --attention dattention; " + o.attention + " looks at every pixel");
  if (o.attention_stride > o.attention_maps.back()) {
    refuse("--attention-stride", fmt::format("{} is larger than the smallest map with attention, {} x {}",
                                             o.attention_stride, o.attention_maps.back(), o.attention_maps.back()));
  }
}

const CLI::Validator& positive() {
  static const CLI::Validator validator(
      [](std::string& text) {
        return is_positive(std::strtod(text.c_str(), nullptr)) ? std::string()
                                                               : "expected a number above 0, got " + text;
      },
      "NUMBER > 0");
  return validator;
}

// As of "$UNSET" in a script.
const CLI::Validator& not_empty() {
  static const CLI::Validator validator(
      [](std::string& text) { return text.empty() ? "expected a path, got nothing" : std::string(); }, "PATH");
  return validator;
}

// What is trained, and on what.
void add_model_options(CLI::App& app, TrainOptions& o) {
  app.add_option("--data", o.data,
                 "Folder (CIFAR binary files, or train/ and test/ with a folder a class), or cifar10, or synthetic")
      ->capture_default_str();
  app.add_option("--model", o.model, "Network")->check(one_of(kModels))->capture_default_str();
  app.add_option("--attention", o.attention, "Attention blocks of dattn_cnn and dattn_cnn_wide")
      ->check(one_of(kAttentions))
      ->capture_default_str();
  app.add_option_function<std::string>(
         "--attention-maps", [&o](const std::string& text) { o.attention_maps = parse_maps(text); },
         fmt::format("Maps with an attention block, by their sides: some of {}", fmt::join(kAttentionMaps, ",")))
      ->default_str(fmt::format("{}", fmt::join(o.attention_maps, ",")));
  app.add_option("--attention-stride", o.attention_stride, "Pixels from sample to sample in dattention")
      ->transform(whole_number(1, 31))
      ->capture_default_str();
}

// How it is trained.
void add_recipe_options(CLI::App& app, TrainOptions& o) {
  app.add_option("--epochs", o.epochs, "Length of the schedule [the recipe's own]")->check(positive());
  app.add_option("--batch-size", o.batch_size, "Images a step [the recipe's own]")->transform(whole_number(1, 1 << 24));
  app.add_option("--lr-scale", o.lr_scale, "Factor on all learning rates")->check(positive())->capture_default_str();
  app.add_option("--seed", o.seed, "Seed of everything random")
      ->transform(whole_number(0, std::numeric_limits<std::int64_t>::max()))
      ->capture_default_str();
  app.add_option("--holdout", o.holdout, "Training images kept aside to choose best.safetensors by")
      ->transform(whole_number(0, std::int64_t{1} << 40))
      ->capture_default_str();
  add_flag(app, "--ema", o.ema, "Keep a moving average of the weights, and evaluate it");
  app.add_option("--precision", o.precision,
                 "Type of activations; weights and sums are float32 [the fastest that holds the accuracy]")
      ->check(one_of(kPrecisions));
}

// Where, in which steps, and what is written.
void add_run_options(CLI::App& app, TrainOptions& o) {
  app.add_option("--out", o.out, "Folder for checkpoints and metrics [runs/<next number>]")->check(not_empty());
  add_flag(app, "--resume", o.resume, "Go on from last.safetensors in --out");
  add_device_option(app, o.device);
  add_threads_option(app, o.threads);
  app.add_option("--max-steps", o.max_steps, "Stop early after so many steps; the schedule stays that of --epochs")
      ->transform(whole_number(1, kMostSteps));
  app.add_option("--save-every", o.save_every, "Steps between checkpoints [at the end of every epoch]")
      ->transform(whole_number(1, kMostSteps));
  app.add_option("--eval-every", o.eval_every, "Epochs between evaluations on the test images; the last always is one")
      ->transform(whole_number(1, kMostSteps))
      ->capture_default_str();
  add_flag(app, "--warm-up", o.warm_up, "First run three steps of a copy, so that none of what is timed is the first");
  app.set_config("--config", "", "File with options as lines `name = value`")->check(not_empty());
  app.config_formatter(std::make_shared<OneValueConfig>(app));
}

}  // namespace

ParsedTrainOptions parse_train_options(int argc, const char* const* argv) {
  ParsedTrainOptions parsed;
  TrainOptions& o = parsed.options;
  CLI::App app{"Train an image classifier with deformable attention from scratch."};
  app.option_defaults()->take_last();  // an option given twice counts as given last
  add_model_options(app, o);
  add_recipe_options(app, o);
  add_run_options(app, o);

  try {
    app.parse(argc, argv);
    if (o.resume && o.out.empty())
      throw CLI::ValidationError("--resume", "needs --out, the folder of the run to go on with");
    if (!o.resume) check_attention(app, o);  // which has the run's own options otherwise
  } catch (const CLI::ParseError& e) {
    parsed.exit_code = exit_after(app, e);
    return parsed;
  }
  for (const CLI::Option* option : app.get_options()) {
    if (option->count() > 0 && !option->get_lnames().empty()) parsed.given.push_back(option->get_lnames().front());
  }
  return parsed;
}

}  // namespace dattn
