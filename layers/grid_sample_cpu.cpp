// CPU kernels of bilinear sampling.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/grid_sample_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/parallel.h"
#include "core/prefetch.h"
#include "core/simd.h"
#include "layers/grid_sample.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

constexpr std::int64_t kPointTile = 64;  // points a tile

// A coordinate in pixels, and its derivative by the coordinate on [-1, 1].
template <typename T>
struct Place {
  T at, slope;

  Place(T point, std::int64_t size, const GridSampleOptions& options) {
    const T n = static_cast<T>(size);
    at = !options.align_corners ? ((point + 1) * n - 1) / 2 : size > 1 ? (point + 1) / 2 * (n - 1) : 0;
    slope = (options.align_corners ? n - 1 : n) / 2;
    if (options.padding == Padding::border && (at <= 0 || at >= n - 1)) {
      at = at <= 0 ? T(0) : n - 1;
      slope = 0;
    }
  }
};

// The pixels around a point that lie in the image (at most four), their weights, and the derivatives of those by the
// point.
template <typename T>
struct Corners {
  int count = 0;
  std::int64_t pixel[4];
  T weight[4], by_y[4], by_x[4];

  Corners(const T* point, std::int64_t height, std::int64_t width, const GridSampleOptions& options) {
    if (std::isnan(point[0]) || std::isnan(point[1])) {
      const T none = std::numeric_limits<T>::quiet_NaN();
      add(0, none, none, none);
      return;
    }
    const bool xy = options.order == PointOrder::xy;
    const Place<T> y(point[xy ? 1 : 0], height, options), x(point[xy ? 0 : 1], width, options);
    if (!(y.at >= -1 && y.at < static_cast<T>(height) && x.at >= -1 && x.at < static_cast<T>(width))) return;
    const T y0 = std::floor(y.at), x0 = std::floor(x.at), fy = y.at - y0, fx = x.at - x0;
    const auto row = static_cast<std::int64_t>(y0), column = static_cast<std::int64_t>(x0);
    const bool up = row >= 0, down = row + 1 < height, left = column >= 0, right = column + 1 < width;
    const std::int64_t first = row * width + column;
    if (up && left) add(first, (1 - fy) * (1 - fx), -(1 - fx) * y.slope, -(1 - fy) * x.slope);
    if (up && right) add(first + 1, (1 - fy) * fx, -fx * y.slope, (1 - fy) * x.slope);
    if (down && left) add(first + width, fy * (1 - fx), (1 - fx) * y.slope, -fy * x.slope);
    if (down && right) add(first + width + 1, fy * fx, fx * y.slope, fy * x.slope);
  }

 private:
  void add(std::int64_t at, T w, T wy, T wx) {
    pixel[count] = at, weight[count] = w, by_y[count] = wy, by_x[count] = wx;
    ++count;
  }
};

// Sizes and points that the three loops share.
template <typename T>
struct Samples {
  std::int64_t images, height, width, channels, count, groups, group_channels;
  const T* points;  // [N, K, G, 2]
  GridSampleOptions options;

  Samples(const Tensor& x, const Tensor& p, const GridSampleOptions& o)
      : images(x.size(0)),
        height(x.size(1)),
        width(x.size(2)),
        channels(x.size(3)),
        count(p.size(1)),
        groups(p.size(2)),
        group_channels(channels / groups),
        points(p.data<T>()),
        options(o) {}

  Corners<T> corners(std::int64_t n, std::int64_t sample, std::int64_t group) const {
    return Corners<T>(points + ((n * count + sample) * groups + group) * 2, height, width, options);
  }
  // Asks for what the samples after [begin, end) need of a map [N, K, C], or of the image [N, H, W, C] if they lie
  // evenly.
  template <typename S>
  Prefetch<S> ahead(const S* map, std::int64_t pixels, std::int64_t begin, std::int64_t end) const {
    return Prefetch<S>::following(map, images * pixels * channels, begin, end, images * count, end - begin);
  }
  // Offset of a group's channels of one pixel, and of one sample.
  std::int64_t pixel(std::int64_t n, std::int64_t at, std::int64_t group) const {
    return (n * height * width + at) * channels + group * group_channels;
  }
  std::int64_t sample(std::int64_t n, std::int64_t at, std::int64_t group) const {
    return (n * count + at) * channels + group * group_channels;
  }
};

// y = the weighted sum of the corners' rows of n channels; `x` is the first pixel's, pixels are `step` elements apart.
template <typename S, typename T>
HWY_INLINE void blend(const Corners<T>& corners, std::int64_t n, const S* x, std::int64_t step, S* y) {
  const S* row[4] = {};
  for (int i = 0; i < corners.count; ++i) row[i] = x + corners.pixel[i] * step;
  const T* w = corners.weight;
  if (corners.count == 4) {
    for_lanes<T>(n, [&](auto d, std::int64_t c) HWY_ATTR {
      const auto upper =
          hn::MulAdd(hn::Set(d, w[1]), load(d, row[1] + c), hn::Mul(hn::Set(d, w[0]), load(d, row[0] + c)));
      const auto lower =
          hn::MulAdd(hn::Set(d, w[3]), load(d, row[3] + c), hn::Mul(hn::Set(d, w[2]), load(d, row[2] + c)));
      store(hn::Add(upper, lower), d, y + c);
    });
  } else {
    for_lanes<T>(n, [&](auto d, std::int64_t c) HWY_ATTR {
      auto sum = hn::Zero(d);
      for (int i = 0; i < corners.count; ++i) sum = hn::MulAdd(hn::Set(d, w[i]), load(d, row[i] + c), sum);
      store(sum, d, y + c);
    });
  }
}

void GridSampleForward(const Tensor& x, const Tensor& points, const GridSampleOptions& options, Tensor& y) {
  dispatch_activations("grid_sample", x.dtype(), [&]<typename S>() HWY_ATTR {
    const Samples<Exact<S>> s(x, points, options);
    const S* px = x.data<S>();
    S* py = y.data<S>();
    parallel_for(s.images * s.count, kPointTile, [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
      auto ahead = s.ahead(px, s.height * s.width, begin, end);
      for (std::int64_t i = begin; i < end; ++i) {
        ahead.step();
        const std::int64_t n = i / s.count, k = i % s.count;
        for (std::int64_t g = 0; g < s.groups; ++g) {
          blend(s.corners(n, k, g), s.group_channels, px + s.pixel(n, 0, g), s.channels, py + s.sample(n, k, g));
        }
      }
    });
  });
}

// Samples of one group may meet in a pixel, so a task walks over all samples of its pixels: those of an image, or where
// images are few, of one group in a band of its rows.
void GridSampleBackwardX(const Tensor& dy, const Tensor& points, const GridSampleOptions& options, Tensor& dx) {
  constexpr std::int64_t kTasks = 16;  // few images are cut to give about so many
  dispatch_float("grid_sample", dx.dtype(), [&]<typename T>() HWY_ATTR {
    const Samples<T> s(dx, points, options);
    const T* pdy = dy.data<T>();
    T* pdx = dx.data<T>();
    const std::int64_t together = s.images >= kTasks ? s.groups : 1, planes = s.images * s.groups / together;
    if (planes == 0) return;
    const std::int64_t bands = std::min(s.height, tile_count(kTasks, planes)), rows = tile_count(s.height, bands);
    const bool whole = planes * bands == s.images;  // then a task has an image, and the next task the next
    parallel_for(planes * bands, 1, [&](std::int64_t task, std::int64_t) HWY_ATTR {
      const std::int64_t plane = task / bands, band = task % bands, n = plane * together / s.groups;
      const std::int64_t first = plane * together % s.groups, last = first + together;
      const std::int64_t begin = std::min(s.height, band * rows) * s.width;
      const std::int64_t end = std::min(s.height, (band + 1) * rows) * s.width;
      for (std::int64_t at = begin; at < end; ++at) {
        std::fill_n(pdx + s.pixel(n, at, first), together * s.group_channels, T(0));
      }
      auto ahead = s.ahead(pdy, whole ? s.count : 0, n * s.count, (n + 1) * s.count);
      for (std::int64_t k = 0; k < s.count; ++k) {
        ahead.step();
        for (std::int64_t g = first; g < last; ++g) {
          const Corners<T> corners = s.corners(n, k, g);
          for (int i = 0; i < corners.count; ++i) {
            if (corners.pixel[i] < begin || corners.pixel[i] >= end) continue;
            axpy(s.group_channels, corners.weight[i], pdy + s.sample(n, k, g), pdx + s.pixel(n, corners.pixel[i], g));
          }
        }
      }
    });
  });
}

void GridSampleBackwardPoints(const Tensor& dy, const Tensor& x, const Tensor& points, const GridSampleOptions& options,
                              Tensor& dpoints) {
  dispatch_float("grid_sample", x.dtype(), [&]<typename T>() HWY_ATTR {
    const Samples<T> s(x, points, options);
    const T *pdy = dy.data<T>(), *px = x.data<T>();
    T* dp = dpoints.data<T>();
    const int x_at = options.order == PointOrder::xy ? 0 : 1;
    parallel_for(s.images * s.count, kPointTile, [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
      auto dy_ahead = s.ahead(pdy, s.count, begin, end);
      auto x_ahead = s.ahead(px, s.height * s.width, begin, end);
      for (std::int64_t i = begin * s.groups; i < end * s.groups; ++i) {
        if (i % s.groups == 0) dy_ahead.step(), x_ahead.step();
        const std::int64_t n = i / s.groups / s.count, k = i / s.groups % s.count, g = i % s.groups;
        const Corners<T> corners = s.corners(n, k, g);
        T sum_y = 0, sum_x = 0;
        for (int a = 0; a < corners.count; ++a) {
          const T product = dot(s.group_channels, pdy + s.sample(n, k, g), px + s.pixel(n, corners.pixel[a], g));
          sum_y += corners.by_y[a] * product;
          sum_x += corners.by_x[a] * product;
        }
        dp[2 * i + 1 - x_at] += sum_y;
        dp[2 * i + x_at] += sum_x;
      }
    });
  });
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

HWY_EXPORT(GridSampleForward);
static void grid_sample_forward_cpu(const Tensor& x, const Tensor& points, const GridSampleOptions& options,
                                    Tensor& y) {
  HWY_DYNAMIC_DISPATCH(GridSampleForward)(x, points, options, y);
}
constinit Kernel<void(const Tensor&, const Tensor&, const GridSampleOptions&, Tensor&)> grid_sample_forward{
    "grid_sample_forward", grid_sample_forward_cpu, Bfloat16::native};

HWY_EXPORT(GridSampleBackwardX);
static void grid_sample_backward_x_cpu(const Tensor& dy, const Tensor& points, const GridSampleOptions& options,
                                       Tensor& dx) {
  HWY_DYNAMIC_DISPATCH(GridSampleBackwardX)(dy, points, options, dx);
}
constinit Kernel<void(const Tensor&, const Tensor&, const GridSampleOptions&, Tensor&)> grid_sample_backward_x{
    "grid_sample_backward_x", grid_sample_backward_x_cpu};

HWY_EXPORT(GridSampleBackwardPoints);
static void grid_sample_backward_points_cpu(const Tensor& dy, const Tensor& x, const Tensor& points,
                                            const GridSampleOptions& options, Tensor& dpoints) {
  HWY_DYNAMIC_DISPATCH(GridSampleBackwardPoints)(dy, x, points, options, dpoints);
}
constinit Kernel<void(const Tensor&, const Tensor&, const Tensor&, const GridSampleOptions&, Tensor&)>
    grid_sample_backward_points{"grid_sample_backward_points", grid_sample_backward_points_cpu};

}  // namespace dattn
#endif
