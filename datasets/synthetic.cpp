// Drawing the synthetic set. A shape is a signed distance function; the coverage of a pixel follows from its distance
// to the edge, so edges are soft without oversampling.
#include "datasets/synthetic.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/parallel.h"
#include "core/random.h"

namespace dattn {

namespace {

constexpr std::int64_t kSide = 32, kPixels = kSide * kSide;

struct Point {
  float x, y;
};

float length(Point p) { return std::sqrt(p.x * p.x + p.y * p.y); }

/// To a rectangle around 0 with these half sides (outside its corners the distance to the nearer line, which is enough
/// here).
float box(Point p, float half_x, float half_y) { return std::max(std::abs(p.x) - half_x, std::abs(p.y) - half_y); }

// Signed distances, negative inside, of shapes about as large as the unit disc.
float disc(Point p) { return length(p) - 0.85f; }
float ring(Point p) { return std::abs(length(p) - 0.74f) - 0.17f; }
float crescent(Point p) { return std::max(length(p) - 0.95f, 0.8f - length({p.x - 0.5f, p.y})); }
float square(Point p) { return box(p, 0.72f, 0.72f); }
float frame(Point p) { return std::abs(box(p, 0.68f, 0.68f)) - 0.15f; }
float cross(Point p) { return std::min(box(p, 0.95f, 0.25f), box(p, 0.25f, 0.95f)); }

float triangle(Point p) {
  const float slope = std::numbers::sqrt3_v<float> / 2;
  return std::max({-p.y, 0.5f * p.y + slope * p.x, 0.5f * p.y - slope * p.x}) - 0.5f;
}

/// Five points: the plane is folded onto half a point, whose edge runs from the tip (1, 0) to the notch.
float star(Point p) {
  constexpr float kTurn = 2 * std::numbers::pi_v<float> / 5, kNotch = 0.4f;
  float angle = std::atan2(p.y, p.x);
  angle = std::abs(angle - kTurn * std::round(angle / kTurn));
  const float r = length(p), x = r * std::cos(angle), y = r * std::sin(angle);
  const Point notch{kNotch * std::cos(kTurn / 2), kNotch * std::sin(kTurn / 2)};
  const Point edge{1 - notch.x, -notch.y};
  return ((x - 1) * -edge.y + y * edge.x) / length(edge);
}

float stripes(Point p) {
  constexpr float kPeriod = 0.64f;
  const float bar = std::abs(p.y - kPeriod * std::clamp(std::round(p.y / kPeriod), -1.0f, 1.0f)) - kPeriod / 4;
  return std::max(bar, std::abs(p.x) - 0.85f);
}

/// Five of three times three fields.
float checkerboard(Point p) {
  constexpr float kField = 0.54f;
  const auto field = [](float v) { return std::clamp(std::round(v / kField), -1.0f, 1.0f); };
  const float i = field(p.x), j = field(p.y);
  const float inside = box({p.x - i * kField, p.y - j * kField}, kField / 2, kField / 2);
  const bool filled = (static_cast<int>(i) + static_cast<int>(j)) % 2 == 0;
  return filled ? inside : -inside;
}

struct ShapeClass {
  const char* name;
  float (*distance)(Point);
};
constexpr std::array<ShapeClass, 10> kShapes{{{"disc", disc},
                                              {"ring", ring},
                                              {"crescent", crescent},
                                              {"square", square},
                                              {"frame", frame},
                                              {"cross", cross},
                                              {"triangle", triangle},
                                              {"star", star},
                                              {"stripes", stripes},
                                              {"checkerboard", checkerboard}}};

using Colour = std::array<float, 3>;  // each 0..1

/// One image being drawn, from the random numbers of its own.
class Scene {
 public:
  explicit Scene(const Random& random) : random_(random) {}

  void background() {
    const Colour centre = colour();
    const float angle = between(0, 2 * std::numbers::pi_v<float>), dx = std::cos(angle), dy = std::sin(angle);
    Colour slope;
    for (std::size_t c = 0; c < 3; ++c) slope[c] = between(-0.25f, 0.25f) * 2 / kSide;
    for (std::int64_t i = 0; i < kPixels; ++i) {
      const float along =
          dx * (static_cast<float>(i % kSide) - kSide / 2) + dy * (static_cast<float>(i / kSide) - kSide / 2);
      for (std::size_t c = 0; c < 3; ++c) pixels_[static_cast<std::size_t>(i)][c] = centre[c] + slope[c] * along;
    }
    background_ = centre;
  }

  /// Up to four small strokes.
  void clutter() {
    for (auto strokes = random_.next_below(5); strokes > 0; --strokes) {
      const Point centre{between(0, kSide), between(0, kSide)};
      const float half = between(0.5f, 4), width = between(0.5f, 1);
      paint(centre, half + width + 1, between(0, std::numbers::pi_v<float>), colour(), [&](Point p) {
        return length({std::max(std::abs(p.x) - half, 0.0f), p.y}) - width;
      });
    }
  }

  void shape(float (*distance)(Point)) {
    const float size = between(6.5f, 11), squeeze = between(0.85f, 1);
    const Point centre{between(size, kSide - size), between(size, kSide - size)};
    Colour ink = colour();
    // Colours too near the background's are drawn again.
    for (int tries = 0; tries < 16 && contrast(ink) < 0.5f; ++tries) ink = colour();
    paint(centre, 1.4f * size, between(0, 2 * std::numbers::pi_v<float>), ink, [&](Point p) {
      return size * squeeze * distance({p.x / size, p.y / (size * squeeze)});
    });
  }

  /// Adds noise (a sum of four bytes is near enough to normal) and rounds to bytes.
  void finish(const Random& noise, std::uint8_t* out) const {
    constexpr float kDeviation = 0.06f, kScale = kDeviation / 147.8f;  // 147.8: the deviation of a sum of four bytes
    for (std::size_t i = 0; i < kPixels; ++i) {
      const auto words = noise.block(i);
      for (std::size_t c = 0; c < 3; ++c) {
        const std::uint32_t w = words[c];
        const auto sum = static_cast<int>((w & 255) + (w >> 8 & 255) + (w >> 16 & 255) + (w >> 24)) - 510;
        const float value = pixels_[i][c] + kScale * static_cast<float>(sum);
        out[3 * i + c] = static_cast<std::uint8_t>(std::clamp(255 * value + 0.5f, 0.0f, 255.0f));
      }
    }
  }

 private:
  float between(float low, float high) { return low + (high - low) * random_.next_uniform(); }
  Colour colour() { return {between(0, 1), between(0, 1), between(0, 1)}; }
  float contrast(const Colour& ink) const {
    return std::hypot(ink[0] - background_[0], ink[1] - background_[1], ink[2] - background_[2]);
  }

  /// Covers what lies inside `distance`, a function of pixels from the centre in the turned frame, none beyond `reach`.
  template <typename Distance>
  void paint(Point centre, float reach, float angle, const Colour& ink, Distance&& distance) {
    const float c = std::cos(angle), s = std::sin(angle);
    const auto first = [&](float at) { return std::max(0, static_cast<int>(at - reach)); };
    const auto last = [&](float at) { return std::min<int>(kSide, static_cast<int>(at + reach) + 1); };
    for (int y = first(centre.y); y < last(centre.y); ++y) {
      for (int x = first(centre.x); x < last(centre.x); ++x) {
        const float dx = static_cast<float>(x) + 0.5f - centre.x, dy = static_cast<float>(y) + 0.5f - centre.y;
        const float cover = std::clamp(0.5f - distance(Point{c * dx + s * dy, c * dy - s * dx}), 0.0f, 1.0f);
        Colour& pixel = pixels_[static_cast<std::size_t>(y * kSide + x)];
        for (std::size_t k = 0; k < 3; ++k) pixel[k] += cover * (ink[k] - pixel[k]);
      }
    }
  }

  Random random_;
  Colour background_{};
  std::array<Colour, kPixels> pixels_;
};

ImageSet draw(std::int64_t count, std::uint64_t seed, std::uint32_t split) {
  ImageSet set{Tensor::empty({count, kSide, kSide, 3}, Dtype::uint8), Tensor::empty({count}, Dtype::int64), {}};
  for (const auto& shape : kShapes) set.class_names.emplace_back(shape.name);
  auto* images = set.images.data<std::uint8_t>();
  auto* labels = set.labels.data<std::int64_t>();
  parallel_for(count, 32, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const auto label = static_cast<std::size_t>(i) % kShapes.size();
      const auto step = static_cast<std::uint64_t>(i);
      labels[i] = static_cast<std::int64_t>(label);
      Scene scene(Random(seed, Purpose::synthetic, step, 2 * split));
      scene.background();
      scene.clutter();
      scene.shape(kShapes[label].distance);
      scene.finish(Random(seed, Purpose::synthetic, step, 2 * split + 1), images + i * kPixels * 3);
    }
  });
  return set;
}

}  // namespace

DataSets make_synthetic(const SyntheticOptions& options) {
  check(options.train >= 1 && options.test >= 1,
        "synthetic: expected at least 1 image to train and to test on, got {} and {}", options.train, options.test);
  DataSets data{"synthetic", draw(options.train, options.seed, 0), draw(options.test, options.seed, 1), {}};
  data.normalisation = channel_statistics(data.train.images);
  return data;
}

}  // namespace dattn
