// Golden files: reading a case, running its operation, and measuring.
#include "train/golden.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <set>
#include <vector>

#include "core/ops.h"
#include "layers/activation.h"
#include "layers/batchnorm.h"
#include "layers/conv2d.h"
#include "layers/dattention.h"
#include "layers/layernorm.h"
#include "layers/loss.h"
#include "layers/pool2d.h"
#include "optim/adam.h"
#include "optim/sgd.h"
#include "train/watch.h"

namespace dattn {

namespace {

/// A file with the count of what has been asked of it, and the largest error so far.
class GoldenCase {
 public:
  explicit GoldenCase(const StateFile& file) : file_(file) {
    for (const auto& [name, tensor] : file.tensors) {
      if (name.starts_with("grad.")) largest_gradient_ = std::max(largest_gradient_, largest_magnitude(tensor));
    }
  }

  // Options.
  const std::string& text(const std::string& key) const {
    const auto found = file_.metadata.find(key);
    check(found != file_.metadata.end(), "the metadata hold no `{}`", key);
    return found->second;
  }
  template <typename T>
  T number(const std::string& key) const {
    const std::string& digits = text(key);
    T value{};
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    check(error == std::errc() && end == digits.data() + digits.size(), "metadata `{}`: expected {}, found `{}`", key,
          std::is_integral_v<T> ? "a whole number" : "a number", digits);
    return value;
  }
  std::int64_t integer(const std::string& key) const { return number<std::int64_t>(key); }
  bool flag(const std::string& key) const {
    const std::string& digit = text(key);
    check(digit == "0" || digit == "1", "metadata `{}`: expected 0 or 1, found `{}`", key, digit);
    return digit == "1";
  }

  // Tensors.
  bool has(const std::string& name) const { return file_.tensors.contains(name); }
  const Tensor& tensor(const std::string& name, Dtype dtype = Dtype::float64) {
    const auto found = file_.tensors.find(name);
    check(found != file_.tensors.end(), "there is no tensor `{}`", name);
    check(found->second.dtype() == dtype, "tensor `{}`: expected {}, found {}", name, dattn::name(dtype),
          dattn::name(found->second.dtype()));
    read_.insert(name);
    return found->second;
  }
  /// Names after `prefix` of the tensors that have it.
  std::vector<std::string> names(const std::string& prefix) const {
    std::vector<std::string> all;
    for (const auto& [name, tensor] : file_.tensors) {
      if (name.starts_with(prefix)) all.push_back(name.substr(prefix.size()));
    }
    return all;
  }

  /// Measures our `ours` against the tensor `name`.
  void compare(const std::string& name, const Tensor& ours) {
    const Tensor& reference = tensor(name, ours.dtype());
    check(reference.shape() == ours.shape(), "tensor `{}`: expected {}, found {}", name, ours.shape(),
          reference.shape());
    const double scale =
        std::max(largest_magnitude(reference), name.starts_with("grad.") ? 1e-3 * largest_gradient_ : 0);
    for (std::int64_t i = 0; i < ours.elements(); ++i) {
      const double difference = std::abs(ours.at(i) - reference.at(i));
      const double error = difference == 0 ? 0 : difference / scale;
      if (error <= result_.error && !result_.tensor.empty()) continue;
      result_ = {std::isfinite(error) ? error : std::numeric_limits<double>::infinity(), name};
    }
  }

  /// To be called last: nothing in the file may have been left aside.
  GoldenResult result() const {
    for (const auto& [name, tensor] : file_.tensors)
      check(read_.contains(name), "tensor `{}` has no meaning here", name);
    return result_;
  }

 private:
  const StateFile& file_;
  std::set<std::string> read_;
  double largest_gradient_ = 0;
  GoldenResult result_;
};

/// How a case's inputs and outputs lie in the file.
enum class Layout { nchw, plain };

Tensor from_file(const Tensor& x, Layout layout) {
  if (layout == Layout::plain) return x.clone();
  check(x.rank() == 4, "expected images [N,C,H,W], found {}", x.shape());
  return from_nchw(x);
}
Tensor to_file(const Tensor& x, Layout layout) { return layout == Layout::plain ? x : to_nchw(x); }

// Of parameters only filters have rank 4.
Layout layout_of(const Parameter& p) { return p.value().rank() == 4 ? Layout::nchw : Layout::plain; }

/// A parameter with the value of `param.NAME`.
NamedParameter parameter_of(GoldenCase& golden, const std::string& name, Role role) {
  const Tensor& value = golden.tensor("param." + name);
  return {name, Parameter(from_file(value, value.rank() == 4 ? Layout::nchw : Layout::plain), role)};
}

/// Fills a module of float64 with `param.NAME` and `buffer.NAME`.
template <Module M>
void load(GoldenCase& golden, M& module) {
  for (auto& [name, p] : parameters(module)) {
    const Tensor value = from_file(golden.tensor("param." + name), layout_of(p));
    check(value.shape() == p.shape(), "tensor `param.{}`: expected {}, found {}", name,
          to_file(p.value(), layout_of(p)).shape(), golden.tensor("param." + name).shape());
    p.value().copy_from(value);
  }
  for (auto& [name, b] : buffers(module)) {
    const Tensor& value = golden.tensor("buffer." + name, b.dtype());
    check(value.shape() == b.shape(), "tensor `buffer.{}`: expected {}, found {}", name, b.shape(), value.shape());
    b.copy_from(value);
  }
}

/// Forward and backward through `call`: y, grad.x and grad.NAME. A gradient of a parameter for which `may_lack` holds
/// may be absent.
void check_layer(
    GoldenCase& golden, Layout layout, const std::vector<NamedParameter>& parameters,
    const std::function<Tensor(const Tensor&)>& call,
    const std::function<bool(const std::string&)>& may_lack = [](const std::string&) { return false; }) {
  Tensor x = from_file(golden.tensor("x"), layout);
  const Tensor y = call(x.track());
  golden.compare("y", to_file(y.detach(), layout));
  backward(y, from_file(golden.tensor("grad_y"), layout));
  golden.compare("grad.x", to_file(x.grad(), layout));
  for (const auto& [name, p] : parameters) {
    if (!golden.has("grad." + name) && may_lack(name)) continue;
    golden.compare("grad." + name, to_file(p.grad(), layout_of(p)));
  }
}

void check_conv2d(GoldenCase& golden) {
  const Conv2dOptions options{golden.integer("stride"), golden.integer("padding"), golden.integer("dilation"),
                              golden.integer("groups")};
  std::vector<NamedParameter> parameters{parameter_of(golden, "weight", Role::matrix)};
  if (golden.has("param.bias")) parameters.push_back(parameter_of(golden, "bias", Role::vector));
  const Parameter weight = parameters[0].parameter,
                  bias = parameters.size() > 1 ? parameters[1].parameter : Parameter();
  check_layer(golden, Layout::nchw, parameters, [&](const Tensor& x) { return conv2d(x, weight, bias, options); });
}

void check_batchnorm2d(GoldenCase& golden) {
  BatchNorm2d norm(golden.tensor("param.weight").elements(),
                   {.eps = golden.number<double>("eps"), .momentum = golden.number<double>("momentum")});
  convert(norm, Dtype::float64);
  load(golden, norm);
  set_training(norm, golden.flag("training"));
  check_layer(golden, Layout::nchw, parameters(norm), [&](const Tensor& x) { return norm(x); });
  for (const auto& [name, b] : buffers(norm)) {
    if (golden.flag("training") || golden.has("buffer_after." + name)) golden.compare("buffer_after." + name, b);
  }
}

void check_layernorm(GoldenCase& golden) {
  LayerNorm norm(golden.tensor("param.weight").elements(), golden.number<double>("eps"));
  convert(norm, Dtype::float64);
  load(golden, norm);
  check_layer(golden, Layout::plain, parameters(norm), norm);
}

void check_gelu(GoldenCase& golden) {
  const std::string& kind = golden.text("approximate");
  check(kind == "none" || kind == "tanh", "metadata `approximate`: expected none or tanh, found `{}`", kind);
  check_layer(golden, Layout::plain, {},
              [&](const Tensor& x) { return gelu(x, kind == "none" ? GeluKind::erf : GeluKind::tanh); });
}

void check_maxpool2d(GoldenCase& golden) {
  const std::int64_t kernel = golden.integer("kernel"), stride = golden.integer("stride"),
                     padding = golden.integer("padding");
  check_layer(golden, Layout::nchw, {}, [&](const Tensor& x) { return max_pool2d(x, kernel, stride, padding); });
}

void check_cross_entropy(GoldenCase& golden) {
  const std::string& reduction = golden.text("reduction");
  check(reduction == "mean" || reduction == "sum", "metadata `reduction`: expected mean or sum, found `{}`", reduction);
  Tensor x = golden.tensor("x").clone().track();
  const Tensor y = cross_entropy(x, golden.tensor("target", Dtype::int64), golden.number<double>("label_smoothing"),
                                 reduction == "mean" ? Reduction::mean : Reduction::sum);
  golden.compare("y", y.detach());
  backward(y);
  golden.compare("grad.x", x.grad());
}

void check_dattention(GoldenCase& golden) {
  DAttentionOptions options{
      .channel = golden.integer("channel"), .q_h = golden.integer("q_h"), .q_w = golden.integer("q_w")};
  options.n_heads = golden.integer("n_heads");
  options.n_groups = golden.integer("n_groups");
  options.stride = golden.integer("stride");
  options.offset_range_factor = golden.number<double>("offset_range_factor");
  options.use_pe = golden.flag("use_pe");
  options.dwc_pe = golden.flag("dwc_pe");
  options.no_off = golden.flag("no_off");
  options.fixed_pe = golden.flag("fixed_pe");
  options.ksize = golden.integer("ksize");
  options.log_cpb = golden.flag("log_cpb");
  Random random(0, Purpose::init);
  DAttention attention(options, random);
  convert(attention, Dtype::float64);
  load(golden, attention);

  const Tensor x = from_file(golden.tensor("x"), Layout::nchw);
  golden.compare("pos", attention.positions(x));
  if (golden.has("reference")) {
    golden.compare("reference", attention.reference_points(x.size(0), x.size(1), x.size(2)).to(Dtype::float64));
  }
  // The published code freezes the offset network where it has no use for offsets.
  const auto may_lack = [&](const std::string& name) { return options.no_off && name.starts_with("conv_offset."); };
  check_layer(
      golden, Layout::nchw, parameters(attention), [&](const Tensor& in) { return attention(in); }, may_lack);
}

/// Steps of an optimizer on the gradients of the file, which `make` builds from one group of parameters.
template <typename Make>
void check_optimizer(GoldenCase& golden, Make&& make) {
  std::vector<NamedParameter> parameters;
  for (const auto& name : golden.names("param.")) {
    parameters.push_back({name, Parameter(golden.tensor("param." + name).clone(), Role::matrix)});
  }
  check(!parameters.empty(), "there is no tensor `param.NAME`");
  const std::int64_t steps = golden.integer("steps");
  check(steps > 0, "metadata `steps`: expected at least 1, found {}", steps);
  FlatParameters flat({parameters});
  auto optimizer =
      make({ParameterGroup{flat.group(0), golden.number<double>("lr"), golden.number<double>("weight_decay")}});
  for (std::int64_t step = 0; step < steps; ++step) {
    for (const auto& [name, p] : parameters) {
      const std::string place = fmt::format("step{}.grad.{}", step, name);
      const Tensor& grad = golden.tensor(place);
      check(grad.shape() == p.shape(), "tensor `{}`: expected {}, found {}", place, p.shape(), grad.shape());
      p.grad().copy_from(grad);
    }
    optimizer.step();
    for (const auto& [name, p] : parameters) golden.compare(fmt::format("step{}.param.{}", step, name), p.value());
  }
}

void check_sgd(GoldenCase& golden) {
  const SgdOptions options{.momentum = golden.number<double>("momentum"), .nesterov = golden.flag("nesterov")};
  check_optimizer(golden, [&](std::vector<ParameterGroup> groups) { return Sgd(std::move(groups), options); });
}

void check_adamw(GoldenCase& golden) {
  const AdamOptions options{.beta1 = golden.number<double>("beta1"),
                            .beta2 = golden.number<double>("beta2"),
                            .eps = golden.number<double>("eps")};
  check_optimizer(golden, [&](std::vector<ParameterGroup> groups) { return AdamW(std::move(groups), options); });
}

}  // namespace

GoldenResult check_golden(const StateFile& file) {
  static const std::map<std::string, void (*)(GoldenCase&)> kChecks{{"adamw", check_adamw},
                                                                    {"batchnorm2d", check_batchnorm2d},
                                                                    {"conv2d", check_conv2d},
                                                                    {"cross_entropy", check_cross_entropy},
                                                                    {"dattention", check_dattention},
                                                                    {"gelu", check_gelu},
                                                                    {"layernorm", check_layernorm},
                                                                    {"maxpool2d", check_maxpool2d},
                                                                    {"sgd", check_sgd}};
  GoldenCase golden(file);
  const auto found = kChecks.find(golden.text("op"));
  if (found == kChecks.end()) {
    std::vector<std::string> known;
    for (const auto& [op, function] : kChecks) known.push_back(op);
    fail("unknown op `{}` (known: {})", golden.text("op"), fmt::join(known, " "));
  }
  found->second(golden);
  return golden.result();
}

}  // namespace dattn
