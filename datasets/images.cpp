// Finding data by its name or by what a folder holds, and work on whole image sets.
#include "datasets/images.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <span>

#include "core/parallel.h"
#include "core/random.h"
#include "datasets/cifar.h"
#include "datasets/download.h"
#include "datasets/image_folder.h"
#include "datasets/synthetic.h"

namespace dattn {

namespace fs = std::filesystem;

namespace {

/// The first names in a folder, for an error message.
std::string contents(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  if (names.empty()) return "nothing";
  std::ranges::sort(names);
  const std::size_t shown = std::min<std::size_t>(names.size(), 8);
  const std::string list =
      fmt::format("{}", fmt::join(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(shown), ", "));
  return shown == names.size() ? list : fmt::format("{} and {} more", list, names.size() - shown);
}

DataSets load_folder(const fs::path& folder, const LoadOptions& options) {
  for (const fs::path& place : {folder, folder / "cifar-10-batches-bin", folder / "cifar-100-binary"}) {
    if (const auto kind = recognise_cifar(place)) return load_cifar(*kind, place);
  }
  if (is_image_folder(folder)) return load_image_folder(folder, options.image_size);
  fail(
      "data: {}: expected CIFAR-10 binary (data_batch_1.bin ... test_batch.bin), CIFAR-100 binary (train.bin, "
      "test.bin), or "
      "train/ and test/ (or val/) with a folder of images for each class; found {}",
      folder.string(), contents(folder));
}

/// The rows of a tensor that are listed, in that order.
Tensor gather_rows(const Tensor& x, std::span<const std::int64_t> rows) {
  Tensor y = Tensor::empty(x.shape().with(0, static_cast<std::int64_t>(rows.size())), x.dtype());
  if (rows.empty()) return y;
  const std::size_t bytes = y.bytes() / rows.size();
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::memcpy(y.raw() + i * bytes, x.raw() + static_cast<std::size_t>(rows[i]) * bytes, bytes);
  }
  return y;
}

}  // namespace

DataSets load_data(const std::string& source, const LoadOptions& options) {
  DataSets data;
  if (source == "synthetic") {
    data = make_synthetic();
  } else if (source == "cifar10") {
    data = load_cifar(CifarKind::cifar10,
                      fetch(kCifar10, options.cache.empty() ? cache_folder() : options.cache, options.report));
  } else {
    std::error_code error;
    const fs::file_status status = fs::status(source, error);
    const bool missing = status.type() == fs::file_type::not_found;
    check(fs::is_directory(status), "data: expected a folder, `cifar10` or `synthetic`, got '{}', which {}", source,
          missing ? "is not there"
          : error ? "cannot be looked at: " + error.message()
                  : "is a file");
    try {
      data = load_folder(source, options);
    } catch (const fs::filesystem_error& failure) {
      fail("data: {}", failure.what());
    }
  }
  const std::int64_t side = data.train.images.size(1);
  check(side == options.image_size, "data: {} has images of {}x{}, expected {}x{}", data.name, side, side,
        options.image_size, options.image_size);
  return data;
}

namespace {

std::uint64_t hash_of(const void* bytes, std::size_t count) {
  std::uint64_t hash = 0x9E3779B97F4A7C15 ^ count;
  for (std::size_t i = 0; i < count; i += sizeof(std::uint64_t)) {
    std::uint64_t word = 0;
    std::memcpy(&word, static_cast<const std::byte*>(bytes) + i, std::min(sizeof(word), count - i));
    hash = (hash ^ word) * 0xD6E8FEB86659FD93;
    hash ^= hash >> 32;
  }
  return hash;
}

// Of a tensor on the CPU, in pieces on all threads.
std::uint64_t hash_of(const Tensor& x) {
  constexpr std::int64_t kPiece = 1 << 18;
  const auto bytes = static_cast<std::int64_t>(x.bytes());
  std::vector<std::uint64_t> pieces(static_cast<std::size_t>(tile_count(bytes, kPiece)));
  parallel_for(bytes, kPiece, [&](std::int64_t begin, std::int64_t end) {
    pieces[static_cast<std::size_t>(begin / kPiece)] = hash_of(x.raw() + begin, static_cast<std::size_t>(end - begin));
  });
  return hash_of(pieces.data(), pieces.size() * sizeof(std::uint64_t));
}

}  // namespace

std::string fingerprint(const DataSets& data) {
  std::vector<std::uint64_t> parts;
  for (const ImageSet* set : {&data.train, &data.test}) {
    parts.insert(parts.end(), {hash_of(set->images), hash_of(set->labels)});
    for (const std::string& name : set->class_names) parts.push_back(hash_of(name.data(), name.size()));
  }
  return fmt::format("{:016x}", hash_of(parts.data(), parts.size() * sizeof(std::uint64_t)));
}

Normalisation channel_statistics(const Tensor& images) {
  using Histogram = std::array<std::array<std::int64_t, 256>, 3>;
  constexpr std::int64_t kTile = 256;
  const std::int64_t n = images.size(0), values = n > 0 ? images.elements() / n : 0;
  check(n > 0 && images.size(3) == 3, "channel_statistics: expected images [N,H,W,3], got {}", images.shape());
  const std::uint8_t* pixels = images.data<std::uint8_t>();
  std::vector<Histogram> parts(static_cast<std::size_t>(tile_count(n, kTile)));
  parallel_for(n, kTile, [&](std::int64_t begin, std::int64_t end) {
    auto& part = parts[static_cast<std::size_t>(begin / kTile)];
    for (std::int64_t i = begin * values; i < end * values; ++i) ++part[static_cast<std::size_t>(i % 3)][pixels[i]];
  });
  Normalisation result;
  for (std::size_t c = 0; c < 3; ++c) {
    double sum = 0, squares = 0;
    for (std::size_t v = 0; v < 256; ++v) {
      const auto count = std::accumulate(parts.begin(), parts.end(), std::int64_t{0},
                                         [&](std::int64_t s, const Histogram& part) { return s + part[c][v]; });
      const double x = static_cast<double>(v) / 255;
      sum += static_cast<double>(count) * x;
      squares += static_cast<double>(count) * x * x;
    }
    const double pixels_in_all = static_cast<double>(images.elements() / 3), mean = sum / pixels_in_all;
    const double variance = std::max(0.0, squares / pixels_in_all - mean * mean);
    result.mean[c] = static_cast<float>(mean);
    result.std[c] = static_cast<float>(std::max(std::sqrt(variance), 1.0 / 255));
  }
  return result;
}

void take_labels(const ImageSet& set, std::span<const std::int64_t> picks, Tensor& labels) {
  auto* label = labels.data<std::int64_t>();
  for (const std::int64_t image : picks) {
    *label = set.labels.data<std::int64_t>()[image];
    check(*label >= 0 && *label < set.classes(), "data: image {}: expected a label of 0 to {}, found {}", image,
          set.classes() - 1, *label);
    ++label;
  }
}

Tensor draw_images(const ImageSet& set, std::int64_t count, std::uint64_t seed) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(set.count()));
  permute(Random(seed, Purpose::shuffle, 0, 2), order);
  order.resize(static_cast<std::size_t>(std::min(count, set.count())));
  return gather_rows(set.images, order);
}

std::pair<ImageSet, ImageSet> holdout(const ImageSet& set, std::int64_t count, std::uint64_t seed) {
  const std::int64_t n = set.count();
  check(count >= 0 && count < n, "holdout: expected 0 to {} of the {} training images, got {}", n - 1, n, count);
  std::vector<std::int64_t> order(static_cast<std::size_t>(n));
  permute(Random(seed, Purpose::shuffle, 0, 1), order);
  const auto middle = order.end() - count;
  std::sort(order.begin(), middle);
  std::sort(middle, order.end());
  const auto pick = [&](auto begin, auto end) {
    const std::span<const std::int64_t> rows(begin, end);
    return ImageSet{gather_rows(set.images, rows), gather_rows(set.labels, rows), set.class_names};
  };
  return {pick(order.begin(), middle), pick(middle, order.end())};
}

}  // namespace dattn
