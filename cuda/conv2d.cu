// Convolution: operands brought into the form that the products take, and the choice of tiles. Device twins of
// layers/conv2d_cpu.cpp, layers/conv2d_filter_cpu.cpp and layers/conv2d_max_pool.cpp.
#include "layers/conv2d.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "cuda/conv2d_cudnn.h"
#include "cuda/conv2d_filter.cuh"
#include "cuda/conv2d_gather.cuh"
#include "cuda/gemm.h"
#include "cuda/kernels.h"
#include "cuda/sums.cuh"

namespace dattn::cuda {

namespace {

// --- operands ---

// from [pixels, groups, C] -> to [pixels, groups, padded], with zeros beyond C.
template <typename S>
struct PadChannels {
  const S* from;
  std::int64_t C, padded;
  S* to;
  __device__ void operator()(std::int64_t i) const {
    const std::int64_t pixel = i / padded, c = i - pixel * padded;
    store(to + i, c < C ? load(from + pixel * C + c) : 0.0f);
  }
};

template <typename S>
std::int64_t padded_channels(std::int64_t C) {
  return (C + kChunk<S> - 1) / kChunk<S> * kChunk<S>;
}

// Images whose groups have whole chunks of channels: the tensor's own, or a copy.
template <typename S>
class WholeChunks {
 public:
  WholeChunks(const Tensor& images, std::int64_t groups) : data_(images.data<S>()) {
    const std::int64_t C = images.size(3) / groups, padded = padded_channels<S>(C);
    channels_ = static_cast<int>(padded);
    if (C == padded && reinterpret_cast<std::uintptr_t>(data_) % 16 == 0) return;
    const std::int64_t elements = images.shape().rows() * groups * padded;
    copy_.emplace(elements);
    for_each_item("conv2d_pad", elements, PadChannels<S>{data_, C, padded, copy_->data()});
    data_ = copy_->data();
  }
  const S* data() const { return data_; }
  int channels() const { return channels_; }

 private:
  const S* data_;
  int channels_;
  std::optional<Scratch<S>> copy_;
};

// packed [targets, taps, C] in the type of the images, with zeros beyond the `sources` of a group, from w [groups O,
// taps, I]: targets are the filters and sources I, or, transposed, targets are the inputs and sources O.
template <typename S>
struct PackFilters {
  const float* w;
  int taps, I, O, C;
  bool transposed;
  S* packed;
  __device__ void operator()(std::int64_t i) const {
    const auto c = static_cast<int>(i % C), tap = static_cast<int>(i / C % taps);
    const auto target = static_cast<int>(i / C / taps);
    const int sources = transposed ? O : I;
    const std::int64_t filter = transposed ? target / I * O + c : target;
    const int input = transposed ? target % I : c;
    store(packed + i, c < sources ? w[(filter * taps + tap) * I + input] : 0.0f);
  }
};

ConvolutionImages images_of(const Shape& x, std::int64_t groups, std::int64_t channels) {
  check(x.rows() < std::numeric_limits<int>::max() / 2, "conv2d: images {} have too many pixels for cuda", x);
  return {static_cast<int>(x[0]), static_cast<int>(x[1]), static_cast<int>(x[2]), static_cast<int>(groups),
          static_cast<int>(channels)};
}

int tiles(std::int64_t size, int tile) { return static_cast<int>((size + tile - 1) / tile); }

// Calls f.operator()<Tile>() with tiles of kM x kN on tensor cores where S and the device have them. Where bfloat16
// goes without, narrower ones leave room for the converted operands.
template <typename S, int kM, int kN, typename F>
void dispatch_tile(F&& f) {
  if constexpr (std::is_same_v<S, float>) {
    f.template operator()<FloatTile<float, kM, kN>>();
  } else if (device().has_bfloat16_mma()) {
    f.template operator()<MmaTile<kM, kN>>();
  } else {
    f.template operator()<FloatTile<bfloat16, kM, 64>>();
  }
}

// --- forward and data gradient ---

template <typename Tile, bool kPool, typename S>
void launch_gather(const char* name, ConvolutionGather<S>& g) {
  g.column_tiles = tiles(g.shape.target.C, Tile::kColumns);
  // Windows come in groups of as many as a thread's rows lie apart.
  const int units_of_tile = kPool ? Tile::kRows / 4 : Tile::kRows;
  launch(name, conv2d_gather_kernel<Tile, kPool>,
         {dim3(static_cast<unsigned>(tiles(g.units, units_of_tile) * g.column_tiles),
               static_cast<unsigned>(g.shape.target.groups)),
          kThreads, shared_bytes<S>(kProductElements<Tile>)},
         g);
}

// target = the convolution of `source` by w in the direction of `taps`; maxima of windows where `maxima` is defined.
template <typename S>
void gather(const char* name, const Tensor& source, const Tensor& w, const Tensor& b, const Conv2dOptions& o,
            const ConvolutionTaps& taps, bool transposed, Tensor& target, const Shape& map, Tensor* maxima) {
  const std::int64_t Kh = w.size(1), Kw = w.size(2), I = w.size(3), O = w.size(0) / o.groups;
  const WholeChunks<S> from(source, o.groups);
  const std::int64_t depth = Kh * Kw * from.channels(), targets = transposed ? I : O;
  check(depth < std::numeric_limits<int>::max(), "conv2d: filters {} are too large for cuda", w.shape());
  Scratch<S> filters(o.groups * targets * depth);
  for_each_item("conv2d_pack_filters", o.groups * targets * depth,
                PackFilters<S>{w.data<float>(), static_cast<int>(Kh * Kw), static_cast<int>(I), static_cast<int>(O),
                               from.channels(), transposed, filters.data()});
  ConvolutionGather<S> g(
      ConvolutionShape(images_of(source.shape(), o.groups, from.channels()), images_of(map, o.groups, targets), taps,
                       static_cast<int>(Kh), static_cast<int>(Kw)),
      maxima != nullptr);
  g.source = from.data(), g.filters = filters.data(), g.bias = b ? b.data<float>() : nullptr;
  g.target = target.data<S>(), g.taps = maxima != nullptr ? maxima->data<std::uint8_t>() : nullptr;
  g.wide = targets % kChunk<S> == 0 && reinterpret_cast<std::uintptr_t>(target.raw()) % 16 == 0;
  const auto run = [&]<typename Tile>() {
    maxima != nullptr ? launch_gather<Tile, true>(name, g) : launch_gather<Tile, false>(name, g);
  };
  targets > 64 ? dispatch_tile<S, 128, 128>(run) : dispatch_tile<S, 128, 64>(run);
}

// --- filter gradient ---

// dw [groups O, taps, I] += the sum of partial [parts, groups padded_O, taps, padded_I] over the parts, in their order.
struct AddFilterParts {
  const float* partial;
  std::int64_t parts, part, taps, O, I, padded_O, padded_I;  // `part` elements of each
  float* dw;
  template <typename Team>
  __device__ void operator()(const Team& team) const {
    const std::int64_t i = team.row(), row = i / I, filter = row / taps,
                       padded_filter = filter / O * padded_O + filter % O;
    const float* first = partial + (padded_filter * taps + (row - filter * taps)) * padded_I + (i - row * I);
    const float sum = team.sum_of(parts, [&](std::int64_t p) { return first[p * part]; });
    if (team.index() == 0) dw[i] += sum;
  }
};

// Sums of the products in parts [parts, filters, depth]; the number of parts depends on sizes alone.
template <typename Tile, typename S>
std::int64_t launch_filter(ConvolutionFilter<S>& f, std::optional<Scratch<float>>& partial) {
  constexpr std::int64_t kBlocks = 512, kLeastPixels = 256;
  const ConvolutionShape& s = f.shape;
  f.column_tiles = tiles(s.depth, Tile::kColumns);
  const std::int64_t blocks = static_cast<std::int64_t>(tiles(s.target.C, Tile::kRows)) * f.column_tiles;
  const std::int64_t pixels = s.target.pixels(),
                     wanted = std::max<std::int64_t>(1, kBlocks / (blocks * s.target.groups));
  f.part = tiles(std::max(kLeastPixels, (pixels + wanted - 1) / wanted), kDepth<S>) * kDepth<S>;
  const std::int64_t parts = tiles(pixels, f.part);
  partial.emplace(parts * s.target.all_channels() * s.depth);
  f.partial = partial->data();
  launch("conv2d_backward_filter", conv2d_filter_kernel<Tile>,
         {dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(parts), static_cast<unsigned>(s.target.groups)),
          kThreads, shared_bytes<S>(kProductElements<Tile>)},
         f);
  return parts;
}

template <typename S>
void backward_filter(const Tensor& dy, const Tensor& x, const Conv2dOptions& o, Tensor& dw) {
  const std::int64_t O = dw.size(0) / o.groups, I = dw.size(3);
  const WholeChunks<S> sources(x, o.groups), targets(dy, o.groups);
  ConvolutionFilter<S> f(ConvolutionShape(
      images_of(x.shape(), o.groups, sources.channels()), images_of(dy.shape(), o.groups, targets.channels()),
      ConvolutionTaps::forward(o), static_cast<int>(dw.size(1)), static_cast<int>(dw.size(2))));
  f.x = sources.data(), f.dy = targets.data();
  std::optional<Scratch<float>> partial;
  std::int64_t parts = 0;
  const auto run = [&]<typename Tile>() { parts = launch_filter<Tile>(f, partial); };
  O > 64 ? dispatch_tile<S, 128, 128>(run) : dispatch_tile<S, 64, 128>(run);
  for_each_sum(
      "conv2d_backward_filter", dw.elements(), parts,
      AddFilterParts{f.partial, parts, static_cast<std::int64_t>(f.shape.target.all_channels()) * f.shape.depth,
                     dw.size(1) * dw.size(2), O, I, targets.channels(), sources.channels(), dw.data<float>()});
}

// --- cuDNN ---

bool at_chunk(const Tensor& x) { return reinterpret_cast<std::uintptr_t>(x.raw()) % 16 == 0; }

// The library's plan for bfloat16 images whose channels fill chunks; null where the kernels above do the work.
const cudnn::Plan* cudnn_plan(cudnn::Direction direction, const Tensor& x, const Tensor& w, const Tensor& y,
                              const Conv2dOptions& o) {
  constexpr int kWhole = kChunk<bfloat16>;
  const bool suits = cudnn::enabled() && x.dtype() == Dtype::bfloat16 && o.groups == 1 && w.size(0) % kWhole == 0 &&
                     w.size(3) % kWhole == 0 && at_chunk(x) && at_chunk(y) && x.elements() > 0;
  if (!suits) return nullptr;
  return cudnn::find_plan({direction, x.size(0), x.size(1), x.size(2), x.size(3), w.size(0), w.size(1), w.size(2),
                           y.size(1), y.size(2), o.stride, o.padding, o.dilation});
}

struct AddRounded {
  const bfloat16* from;
  float* to;
  __device__ void operator()(std::int64_t i) const { to[i] += load(from + i); }
};

}  // namespace

void conv2d_forward_cuda(const Tensor& x, const Tensor& w, const Tensor& b, const Conv2dOptions& options, Tensor& y) {
  if (const auto* plan = b ? nullptr : cudnn_plan(cudnn::Direction::forward, x, w, y, options)) {
    return cudnn::run(*plan, x.raw(), Converted(w, Dtype::bfloat16).data(), y.raw());
  }
  dispatch_storage("conv2d", x.dtype(), [&]<typename S>() {
    gather<S>("conv2d_forward", x, w, b, options, ConvolutionTaps::forward(options), false, y, y.shape(), nullptr);
  });
}

void conv2d_backward_data_cuda(const Tensor& dy, const Tensor& w, const Conv2dOptions& options, Tensor& dx) {
  if (const auto* plan = cudnn_plan(cudnn::Direction::data, dx, w, dy, options)) {
    return cudnn::run(*plan, dx.raw(), Converted(w, Dtype::bfloat16).data(), dy.raw());
  }
  dispatch_storage("conv2d", dy.dtype(), [&]<typename S>() {
    gather<S>("conv2d_backward_data", dy, w, Tensor(), options, ConvolutionTaps::backward(options), true, dx,
              dx.shape(), nullptr);
  });
}

void conv2d_backward_filter_cuda(const Tensor& dy, const Tensor& x, const Conv2dOptions& options, Tensor& dw) {
  if (const auto* plan = cudnn_plan(cudnn::Direction::filter, x, dw, dy, options)) {
    Scratch<bfloat16> gradient(dw.elements());
    cudnn::run(*plan, x.raw(), gradient.data(), dy.raw());
    return for_each_item("conv2d_backward_filter", dw.elements(), AddRounded{gradient.data(), dw.data<float>()});
  }
  dispatch_storage("conv2d", x.dtype(), [&]<typename S>() { backward_filter<S>(dy, x, options, dw); });
}

// --- with max pooling of 2x2 ---

static Shape convolved_shape(const Tensor& x, const Tensor& w, const Conv2dOptions& o) {
  return {x.size(0), conv2d_size(x.size(1), w.size(1), o), conv2d_size(x.size(2), w.size(2), o), w.size(0)};
}

void conv2d_max_pool2_forward_cuda(const Tensor& x, const Tensor& w, const Tensor& b, const Conv2dOptions& options,
                                   Tensor& y, Tensor& taps) {
  dispatch_storage("conv2d", x.dtype(), [&]<typename S>() {
    gather<S>("conv2d_max_pool2_forward", x, w, b, options, ConvolutionTaps::forward(options), false, y,
              convolved_shape(x, w, options), &taps);
  });
}

void conv2d_max_pool2_backward_cuda(const Tensor& dy, const Tensor& taps, const Tensor& x, const Tensor& w,
                                    const Conv2dOptions& options, Tensor& dx, Tensor& dw) {
  Tensor dmap = Tensor::empty(convolved_shape(x, w, options), dy.dtype(), dy.device());  // [N,Ho,Wo,O]
  max_pool2d_backward_cuda(dy, taps, {2, 2, 0}, dmap);
  if (dx) conv2d_backward_data_cuda(dmap, w, options, dx);
  if (dw) conv2d_backward_filter_cuda(dmap, x, options, dw);
}

}  // namespace dattn::cuda
