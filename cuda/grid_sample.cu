// Bilinear sampling: device twins of layers/grid_sample_cpu.cpp. The gradient of the image has one owner for every
// number, so that no sum depends on an order that the device chooses.
#include "layers/grid_sample.h"

#include <algorithm>

#include "cuda/common.cuh"
#include "cuda/kernels.h"

namespace dattn::cuda {

namespace {

// A coordinate in pixels, and its derivative by the coordinate on [-1, 1].
struct Place {
  float at, slope;

  __device__ Place(float point, int size, const GridSampleOptions& options) {
    const auto n = static_cast<float>(size);
    at = !options.align_corners ? ((point + 1) * n - 1) * 0.5f : size > 1 ? (point + 1) * 0.5f * (n - 1) : 0;
    slope = (options.align_corners ? n - 1 : n) * 0.5f;
    if (options.padding == Padding::border && (at <= 0 || at >= n - 1)) {
      at = at <= 0 ? 0 : n - 1;
      slope = 0;
    }
  }
};

// The four pixels around a point: (row, column) is the upper left one, which may lie outside. Where none lies in the
// image nothing is visible. A point that is not a number has pixels that are none either, at the image's first.
struct Corners {
  bool visible;
  int row, column;
  float fy, fx, slope_y, slope_x;

  __device__ Corners(const float* point, int height, int width, const GridSampleOptions& options) {
    const bool xy = options.order == PointOrder::xy;
    const Place y(point[xy ? 1 : 0], height, options), x(point[xy ? 0 : 1], width, options);
    const bool number = point[0] == point[0] && point[1] == point[1];
    visible =
        !number || (y.at >= -1 && y.at < static_cast<float>(height) && x.at >= -1 && x.at < static_cast<float>(width));
    const float y0 = floorf(y.at), x0 = floorf(x.at);
    row = visible && number ? static_cast<int>(y0) : 0;
    column = visible && number ? static_cast<int>(x0) : 0;
    fy = number ? y.at - y0 : NAN;
    fx = number ? x.at - x0 : NAN;
    slope_y = y.slope, slope_x = x.slope;
  }

  __device__ float row_weight(int below) const { return below != 0 ? fy : 1 - fy; }
  __device__ float column_weight(int right) const { return right != 0 ? fx : 1 - fx; }
};

// Sizes and points that the kernels share.
struct Samples {
  int images, height, width, channels, count, groups, group_channels;
  const float* points;  // [N, K, G, 2]
  GridSampleOptions options;

  Samples(const Tensor& x, const Tensor& p, const GridSampleOptions& o)
      : images(static_cast<int>(x.size(0))),
        height(static_cast<int>(x.size(1))),
        width(static_cast<int>(x.size(2))),
        channels(static_cast<int>(x.size(3))),
        count(static_cast<int>(p.size(1))),
        groups(static_cast<int>(p.size(2))),
        group_channels(channels / groups),
        points(p.data<float>()),
        options(o) {}

  std::int64_t all_points() const { return static_cast<std::int64_t>(images) * count * groups; }
  __device__ Corners corners(std::int64_t point) const { return {points + 2 * point, height, width, options}; }
  __device__ bool inside(int row, int column) const {
    return row >= 0 && row < height && column >= 0 && column < width;
  }
  // Offset of a group's channels of one pixel, and of one sample; a point is (n K + k) G + g.
  __device__ std::int64_t pixel(int n, int row, int column, int group) const {
    return ((static_cast<std::int64_t>(n) * height + row) * width + column) * channels + group * group_channels;
  }
  __device__ std::int64_t sample(std::int64_t point) const { return point * group_channels; }
};

// Whether groups of channels can be read four at a time.
template <typename... P>
bool by_fours(const Samples& s, const P*... pointers) {
  const auto aligned = [](const auto* p) { return reinterpret_cast<std::uintptr_t>(p) % (4 * sizeof(*p)) == 0; };
  return s.group_channels % 4 == 0 && (aligned(pointers) && ...);
}

// kWidth channels of one sample.
template <typename S, int kWidth>
struct Blend {
  Samples s;
  const S* x;
  S* y;
  __device__ void operator()(std::int64_t i) const {
    const int parts = s.group_channels / kWidth;
    const std::int64_t point = i / parts;
    const int c = static_cast<int>(i - point * parts) * kWidth, g = static_cast<int>(point % s.groups);
    const int n = static_cast<int>(point / s.groups / s.count);
    const Corners corners = s.corners(point);
    Floats<kWidth> sum{};
    for (int corner = 0; corners.visible && corner < 4; ++corner) {
      const int row = corners.row + corner / 2, column = corners.column + corner % 2;
      if (!s.inside(row, column)) continue;
      const float weight = corners.row_weight(corner / 2) * corners.column_weight(corner % 2);
      const Floats<kWidth> there = load<kWidth>(x + s.pixel(n, row, column, g) + c);
#pragma unroll
      for (int v = 0; v < kWidth; ++v) sum[v] += weight * there[v];
    }
    store<kWidth>(y + s.sample(point) + c, sum);
  }
};

// --- gradient of the image ---

constexpr int kWarps = 4;              // of a block
constexpr int kCornerLanes = 16;       // half a warp for the left corner of a sample, half for the right one
constexpr int kSegmentNumbers = 2048;  // the most that a warp owns: pixels of one row times channels

// How rows are cut into the segments that warps own: one image, group, row, some columns and some channels.
struct Segments {
  int columns, channels, column_parts, channel_parts;
  std::int64_t count;

  explicit Segments(const Samples& s)
      : columns(std::min(s.width, kSegmentNumbers / kCornerLanes)),
        channels(std::min(s.group_channels, kSegmentNumbers / columns / kCornerLanes * kCornerLanes)),
        column_parts((s.width + columns - 1) / columns),
        channel_parts((s.group_channels + channels - 1) / channels),
        count(static_cast<std::int64_t>(s.images) * s.groups * s.height * column_parts * channel_parts) {}
  __host__ __device__ int numbers() const { return columns * channels; }
};

// A warp looks through the points of its image, 32 at a time, for those that touch its segment, and adds them in order.
template <typename D, typename S>
__global__ void backward_x_kernel(Samples s, Segments cut, const D* dy, S* dx) {
  DynamicShared shared;
  const Shared<float> sums = shared.take<float>(kWarps * cut.numbers());
  const Shared<float> sum = sums + warp_index() * cut.numbers();
  std::int64_t segment = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp_index();
  if (segment >= cut.count) return;
  const int first_channel = static_cast<int>(segment % cut.channel_parts) * cut.channels;
  segment /= cut.channel_parts;
  const int first_column = static_cast<int>(segment % cut.column_parts) * cut.columns;
  segment /= cut.column_parts;
  const int row = static_cast<int>(segment % s.height), plane = static_cast<int>(segment / s.height);
  const int n = plane / s.groups, g = plane % s.groups, lane = lane_index();
  const int columns = min(cut.columns, s.width - first_column);
  const int channels = min(cut.channels, s.group_channels - first_channel);

  for (int i = lane; i < columns * channels; i += kWarpThreads) sum[i] = 0.0f;
  __syncwarp();
  for (int first = 0; first < s.count; first += kWarpThreads) {
    const int k = first + lane;
    const std::int64_t point = (static_cast<std::int64_t>(n) * s.count + min(k, s.count - 1)) * s.groups + g;
    const Corners corners = s.corners(point);
    const int below = row - corners.row, left = corners.column - first_column;
    const bool touches = k < s.count && corners.visible && (below == 0 || below == 1) && left >= -1 && left < columns;
    const float weight = corners.row_weight(below);
    for (unsigned rest = __ballot_sync(kFullWarp, touches); rest != 0; rest &= rest - 1) {
      const int from = __ffs(static_cast<int>(rest)) - 1, right = lane / kCornerLanes;
      const float fx = __shfl_sync(kFullWarp, corners.fx, from);
      const float share = __shfl_sync(kFullWarp, weight, from) * (right != 0 ? fx : 1 - fx);
      const int column = __shfl_sync(kFullWarp, left, from) + right;
      const std::int64_t sample = (static_cast<std::int64_t>(n) * s.count + first + from) * s.groups + g;
      if (column >= 0 && column < columns) {
        for (int c = lane % kCornerLanes; c < channels; c += kCornerLanes) {
          sum[column * channels + c] += share * load(dy + s.sample(sample) + first_channel + c);
        }
      }
      __syncwarp();
    }
  }
  for (int i = lane; i < columns * channels; i += kWarpThreads) {
    const int column = i / channels;
    store(dx + s.pixel(n, row, first_column + column, g) + first_channel + i - column * channels, sum[i]);
  }
}

// --- gradient of the points ---

// `team` lanes, a power of two, share the channels of one point.
template <typename D, typename S, int kWidth>
__global__ void backward_points_kernel(Samples s, int team, const D* dy, const S* x, float* dpoints) {
  const std::int64_t all = static_cast<std::int64_t>(s.images) * s.count * s.groups;
  const std::int64_t own = first_item() / team, point = own < all ? own : all - 1;
  const int g = static_cast<int>(point % s.groups), n = static_cast<int>(point / s.groups / s.count);
  const Corners corners = s.corners(point);
  float by_y = 0, by_x = 0;
  for (int corner = 0; corners.visible && corner < 4; ++corner) {
    const int below = corner / 2, right = corner % 2, row = corners.row + below, column = corners.column + right;
    if (!s.inside(row, column)) continue;
    const S* there = x + s.pixel(n, row, column, g);
    float product = 0;
    for (int c = static_cast<int>(threadIdx.x) % team * kWidth; c < s.group_channels; c += team * kWidth) {
      const Floats<kWidth> a = load<kWidth>(dy + s.sample(point) + c), b = load<kWidth>(there + c);
#pragma unroll
      for (int v = 0; v < kWidth; ++v) product += a[v] * b[v];
    }
    by_y += (below != 0 ? 1.0f : -1.0f) * corners.column_weight(right) * product;
    by_x += (right != 0 ? 1.0f : -1.0f) * corners.row_weight(below) * product;
  }
  for (int flip = team / 2; flip > 0; flip /= 2) {
    by_y += __shfl_xor_sync(kFullWarp, by_y, flip);
    by_x += __shfl_xor_sync(kFullWarp, by_x, flip);
  }
  if (own >= all || threadIdx.x % team != 0) return;
  const int x_at = s.options.order == PointOrder::xy ? 0 : 1;
  dpoints[2 * point + 1 - x_at] += by_y * corners.slope_y;
  dpoints[2 * point + x_at] += by_x * corners.slope_x;
}

template <int kWidth, typename D, typename S>
void backward_points(const Samples& s, const D* dy, const S* x, float* dpoints) {
  int team = 1;
  while (team < kWarpThreads && team * kWidth < s.group_channels) team *= 2;
  const std::int64_t threads = s.all_points() * team;
  launch("grid_sample_backward_points", backward_points_kernel<D, S, kWidth>,
         Grid{static_cast<unsigned>((threads + kThreads - 1) / kThreads), kThreads}, s, team, dy, x, dpoints);
}

// Calls f with the types of the samples' gradient, which may be exact where the image is rounded, and of the image.
template <typename F>
void dispatch_gradient(Dtype gradient, Dtype image, F&& f) {
  dispatch_storage("grid_sample", image, [&]<typename S>() {
    gradient == Dtype::float32 ? f.template operator()<float, S>() : f.template operator()<S, S>();
  });
}

}  // namespace

void grid_sample_forward_cuda(const Tensor& x, const Tensor& points, const GridSampleOptions& options, Tensor& y) {
  if (y.elements() == 0) return;
  const Samples s(x, points, options);
  dispatch_storage("grid_sample", x.dtype(), [&]<typename S>() {
    const S* px = x.data<S>();
    S* py = y.data<S>();
    if (by_fours(s, px, py)) {
      for_each_item("grid_sample_forward", y.elements() / 4, Blend<S, 4>{s, px, py});
    } else {
      for_each_item("grid_sample_forward", y.elements(), Blend<S, 1>{s, px, py});
    }
  });
}

void grid_sample_backward_x_cuda(const Tensor& dy, const Tensor& points, const GridSampleOptions& options, Tensor& dx) {
  if (dx.elements() == 0) return;
  const Samples s(dx, points, options);
  if (s.count == 0) return dx.fill(0);
  const Segments cut(s);
  dispatch_gradient(dy.dtype(), dx.dtype(), [&]<typename D, typename S>() {
    launch("grid_sample_backward_x", backward_x_kernel<D, S>,
           Grid{static_cast<unsigned>((cut.count + kWarps - 1) / kWarps), kWarps * kWarpThreads,
                shared_bytes<float>(kWarps * cut.numbers())},
           s, cut, dy.data<D>(), dx.data<S>());
  });
}

void grid_sample_backward_points_cuda(const Tensor& dy, const Tensor& x, const Tensor& points,
                                      const GridSampleOptions& options, Tensor& dpoints) {
  if (points.elements() == 0 || x.elements() == 0) return;
  const Samples s(x, points, options);
  dispatch_gradient(dy.dtype(), x.dtype(), [&]<typename D, typename S>() {
    const D* pdy = dy.data<D>();
    const S* px = x.data<S>();
    if (by_fours(s, pdy, px)) {
      backward_points<4>(s, pdy, px, dpoints.data<float>());
    } else {
      backward_points<1>(s, pdy, px, dpoints.data<float>());
    }
  });
}

}  // namespace dattn::cuda
