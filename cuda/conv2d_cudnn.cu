// Convolutions by cuDNN's graph interface: one operation, the library's choice of engines in its order, of which the
// first that is deterministic, precompiled and can be planned is kept for the shape, on tensor cores where there is
// one.
#include "cuda/conv2d_cudnn.h"

#include <cudnn.h>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "cuda/context.h"
#include "cuda/memory.h"

namespace dattn::cuda::cudnn {

namespace {

constexpr std::int64_t kMostWorkspace = std::int64_t{1} << 28, kAlignment = 16;
constexpr std::int64_t kX = 1, kW = 2, kY = 3;  // what tensors are called in plans and in the pointers of a run

void check_cudnn(cudnnStatus_t status, const char* what) {
  if (status == CUDNN_STATUS_SUCCESS) [[likely]]
    return;
  std::array<char, 512> more{};
  cudnnGetLastErrorString(more.data(), more.size());
  const std::string text =
      fmt::format("cuda: {}: {} (cuDNN{}{})", what, cudnnGetErrorString(status), more[0] ? ": " : "", more.data());
  if (status == CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED) throw OutOfMemory(text);
  fail("{}", text);
}

// A descriptor of the library, and its attributes.
class Descriptor {
 public:
  explicit Descriptor(cudnnBackendDescriptorType_t type) {
    check_cudnn(cudnnBackendCreateDescriptor(type, &descriptor_), "a descriptor");
  }
  ~Descriptor() {
    if (descriptor_) cudnnBackendDestroyDescriptor(descriptor_);
  }
  Descriptor(Descriptor&& other) noexcept : descriptor_(std::exchange(other.descriptor_, nullptr)) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  Descriptor& operator=(Descriptor&&) = delete;

  template <typename T>
  Descriptor& set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, std::initializer_list<T> values) {
    check_cudnn(
        cudnnBackendSetAttribute(descriptor_, name, type, static_cast<std::int64_t>(values.size()), values.begin()),
        "an attribute of a convolution");
    return *this;
  }
  Descriptor& set(cudnnBackendAttributeName_t name, const Descriptor& other) {
    return set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, {other.descriptor_});
  }
  // Whether the library takes it.
  bool finalize() { return cudnnBackendFinalize(descriptor_) == CUDNN_STATUS_SUCCESS; }
  // How many values it wrote (the library counts all that there are); nothing where it does not answer.
  template <typename T>
  std::optional<std::int64_t> get(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, std::int64_t most,
                                  T* values) const {
    std::int64_t count = 0;
    if (cudnnBackendGetAttribute(descriptor_, name, type, most, &count, values) != CUDNN_STATUS_SUCCESS) return {};
    return std::min(count, most);
  }
  cudnnBackendDescriptor_t raw() const { return descriptor_; }

 private:
  cudnnBackendDescriptor_t descriptor_ = nullptr;
};

struct Library {
  std::mutex mutex;
  cudnnHandle_t handle = nullptr;
  bool enabled = true;
  std::map<Convolution, std::unique_ptr<Plan>> plans;  // null where there is none
};

Library& library() {
  static auto* l = new Library;
  return *l;
}

// --- the operation ---

// Dimensions in the library's order, of memory in ours: [a, height, width, b] as a, b, height, width.
Descriptor tensor(std::int64_t name, std::int64_t a, std::int64_t height, std::int64_t width, std::int64_t b) {
  Descriptor d(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  d.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, {name})
      .set(CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, {CUDNN_DATA_BFLOAT16})
      .set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, {kAlignment})
      .set(CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, {a, b, height, width})
      .set(CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, {height * width * b, std::int64_t{1}, width * b, b});
  check(d.finalize(), "cuda: cuDNN refuses a tensor [{},{},{},{}]", a, height, width, b);
  return d;
}

Descriptor convolution_of(const Convolution& c) {
  Descriptor d(CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
  d.set(CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, {std::int64_t{2}})
      .set(CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, {CUDNN_DATA_FLOAT})
      .set(CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, {CUDNN_CROSS_CORRELATION})
      .set(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, {c.padding, c.padding})
      .set(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, {c.padding, c.padding})
      .set(CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, {c.dilation, c.dilation})
      .set(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, {c.stride, c.stride});
  check(d.finalize(), "cuda: cuDNN refuses a convolution");
  return d;
}

struct DirectionNames {
  cudnnBackendDescriptorType_t operation;
  cudnnBackendAttributeName_t convolution, x, w, y, alpha, beta;
};

const DirectionNames& names_of(Direction direction) {
  static constexpr DirectionNames kNames[] = {
      {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA},
      {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA},
      {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA}};
  return kNames[static_cast<int>(direction)];
}

// --- the choice of an engine ---

// What the library notes of an engine; nothing where it does not answer.
template <typename Note>
std::optional<std::vector<Note>> notes_of(const Descriptor& engine, cudnnBackendAttributeName_t name,
                                          cudnnBackendAttributeType_t type) {
  std::vector<Note> notes(32);
  const auto count = engine.get(name, type, static_cast<std::int64_t>(notes.size()), notes.data());
  if (!count) return std::nullopt;
  notes.resize(static_cast<std::size_t>(*count));
  return notes;
}

template <typename Note>
bool has_any(const std::vector<Note>& notes, std::initializer_list<Note> of) {
  return std::find_first_of(notes.begin(), notes.end(), of.begin(), of.end()) != notes.end();
}

// Whether a config's engine gives the same bits every time, adds products themselves (no transforms, whose errors are
// larger) in float32, and is ready to run: others are compiled when they are planned.
bool suitable(const Descriptor& config, bool on_tensor_cores) {
  Descriptor engine(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  cudnnBackendDescriptor_t raw = engine.raw();
  if (config.get(CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &raw) != 1) return false;
  const auto numerical =
      notes_of<cudnnBackendNumericalNote_t>(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE);
  const auto behaviour =
      notes_of<cudnnBackendBehaviorNote_t>(engine, CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE, CUDNN_TYPE_BEHAVIOR_NOTE);
  return numerical && behaviour &&
         !has_any(*numerical, {CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC, CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION,
                               CUDNN_NUMERICAL_NOTE_FFT, CUDNN_NUMERICAL_NOTE_WINOGRAD}) &&
         !has_any(*behaviour, {CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION}) &&
         (!on_tensor_cores || has_any(*numerical, {CUDNN_NUMERICAL_NOTE_TENSOR_CORE}));
}

// The library's heuristics for a graph of operations.
std::optional<Descriptor> heuristics_of(const Descriptor& graph) {
  Descriptor heuristics(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph)
      .set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, {CUDNN_HEUR_MODE_A});
  if (!heuristics.finalize()) return std::nullopt;
  return heuristics;
}

// Their first `most` proposals, the best first.
std::vector<Descriptor> proposals(const Descriptor& heuristics, std::int64_t most) {
  std::vector<Descriptor> configs;
  std::vector<cudnnBackendDescriptor_t> raw;
  for (std::int64_t i = 0; i < most; ++i) raw.push_back(configs.emplace_back(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR).raw());
  const auto count = heuristics.get(CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, most, raw.data());
  while (static_cast<std::int64_t>(configs.size()) > count.value_or(0)) configs.pop_back();
  return configs;
}

}  // namespace

struct Plan {
  Descriptor plan;
  std::int64_t workspace = 0;
};

namespace {

std::unique_ptr<Plan> plan_with(cudnnHandle_t handle, const Descriptor& config) {
  auto made = std::make_unique<Plan>(Plan{Descriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)});
  made->plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, {handle})
      .set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
  if (!made->plan.finalize()) return nullptr;
  if (made->plan.get(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &made->workspace) != 1)
    return nullptr;
  return made->workspace <= kMostWorkspace ? std::move(made) : nullptr;
}

std::unique_ptr<Plan> make_plan(cudnnHandle_t handle, const Convolution& c) {
  const DirectionNames& names = names_of(c.direction);
  // Nothing says that an operation keeps what it is described by: they live until it is final.
  const Descriptor convolution = convolution_of(c), x = tensor(kX, c.N, c.H, c.W, c.C),
                   w = tensor(kW, c.O, c.Kh, c.Kw, c.C), y = tensor(kY, c.N, c.Ho, c.Wo, c.O);
  Descriptor operation(names.operation);
  operation.set(names.convolution, convolution)
      .set(names.x, x)
      .set(names.w, w)
      .set(names.y, y)
      .set(names.alpha, CUDNN_TYPE_FLOAT, {1.0f})
      .set(names.beta, CUDNN_TYPE_FLOAT, {0.0f});
  if (!operation.finalize()) return nullptr;
  Descriptor graph(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, {handle})
      .set(CUDNN_ATTR_OPERATIONGRAPH_OPS, operation);
  if (!graph.finalize()) return nullptr;
  const auto heuristics = heuristics_of(graph);
  if (!heuristics) return nullptr;
  // The first proposal mostly will do, and each takes the library time. Engines without tensor cores come last: they
  // may copy maps into another layout and back.
  for (const auto& [most, on_tensor_cores] : {std::pair(1, true), {32, true}, {32, false}}) {
    for (const Descriptor& config : proposals(*heuristics, most)) {
      if (!suitable(config, on_tensor_cores)) continue;
      if (auto plan = plan_with(handle, config)) return plan;
    }
  }
  return nullptr;
}

}  // namespace

bool available() { return true; }
bool enabled() { return library().enabled; }
void set_enabled(bool enabled) { library().enabled = enabled; }

const Plan* find_plan(const Convolution& convolution) {
  Library& l = library();
  const std::scoped_lock lock(l.mutex);
  if (!l.enabled) return nullptr;
  if (!l.handle) {
    cudnnHandle_t handle = nullptr;
    check_cudnn(cudnnCreate(&handle), "start of cuDNN");
    check_cudnn(cudnnSetStream(handle, stream()), "the stream of cuDNN");
    l.handle = handle;
  }
  const auto found = l.plans.find(convolution);
  if (found != l.plans.end()) return found->second.get();
  return l.plans.emplace(convolution, make_plan(l.handle, convolution)).first->second.get();
}

void run(const Plan& plan, const void* x, const void* w, const void* y) {
  Scratch<std::byte> workspace(plan.workspace);
  Descriptor variant(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  variant.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, {kX, kW, kY})
      .set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, {x, w, y})
      .set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, {static_cast<void*>(workspace.data())});
  check(variant.finalize(), "cuda: cuDNN refuses the tensors of a convolution");
  Library& l = library();
  const std::scoped_lock lock(l.mutex);
  check_cudnn(cudnnBackendExecute(l.handle, plan.plan.raw(), variant.raw()), "convolution");
}

}  // namespace dattn::cuda::cudnn
