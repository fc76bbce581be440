// Reader of CIFAR-10 and CIFAR-100 binary files.
#include "datasets/cifar.h"

#include <algorithm>

#include "core/memory.h"
#include "core/parallel.h"
#include "datasets/files.h"

namespace dattn {

namespace fs = std::filesystem;

namespace {

constexpr std::int64_t kSide = 32, kPlane = kSide * kSide, kPixels = 3 * kPlane;

/// A label byte of a record, and the number of classes it tells apart.
struct LabelByte {
  const char* name;
  int classes;
};

struct Layout {
  const char* name;
  std::vector<std::string> train_files, test_files;
  std::vector<LabelByte> labels;  // in the record's order; the last one is the class
  std::vector<std::string> class_names;

  std::int64_t record() const { return static_cast<std::int64_t>(labels.size()) + kPixels; }
};

const Layout& layout_of(CifarKind kind) {
  static const Layout cifar10{
      "cifar10",
      {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"},
      {"test_batch.bin"},
      {{"label", 10}},
      {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"}};
  static const Layout cifar100{
      "cifar100",
      {"train.bin"},
      {"test.bin"},
      {{"coarse label", 20}, {"fine label", 100}},
      {"apple",      "aquarium_fish", "baby",         "bear",       "beaver",      "bed",         "bee",
       "beetle",     "bicycle",       "bottle",       "bowl",       "boy",         "bridge",      "bus",
       "butterfly",  "camel",         "can",          "castle",     "caterpillar", "cattle",      "chair",
       "chimpanzee", "clock",         "cloud",        "cockroach",  "couch",       "crab",        "crocodile",
       "cup",        "dinosaur",      "dolphin",      "elephant",   "flatfish",    "forest",      "fox",
       "girl",       "hamster",       "house",        "kangaroo",   "keyboard",    "lamp",        "lawn_mower",
       "leopard",    "lion",          "lizard",       "lobster",    "man",         "maple_tree",  "motorcycle",
       "mountain",   "mouse",         "mushroom",     "oak_tree",   "orange",      "orchid",      "otter",
       "palm_tree",  "pear",          "pickup_truck", "pine_tree",  "plain",       "plate",       "poppy",
       "porcupine",  "possum",        "rabbit",       "raccoon",    "ray",         "road",        "rocket",
       "rose",       "sea",           "seal",         "shark",      "shrew",       "skunk",       "skyscraper",
       "snail",      "snake",         "spider",       "squirrel",   "streetcar",   "sunflower",   "sweet_pepper",
       "table",      "tank",          "telephone",    "television", "tiger",       "tractor",     "train",
       "trout",      "tulip",         "turtle",       "wardrobe",   "whale",       "willow_tree", "wolf",
       "woman",      "worm"}};
  return kind == CifarKind::cifar10 ? cifar10 : cifar100;
}

std::vector<std::string> all_files(const Layout& layout) {
  auto files = layout.train_files;
  files.insert(files.end(), layout.test_files.begin(), layout.test_files.end());
  return files;
}

void check_present(const Layout& layout, const fs::path& folder) {
  std::string missing;
  for (const auto& file : all_files(layout)) {
    if (!fs::exists(folder / file)) missing += (missing.empty() ? "" : ", ") + file;
  }
  check(missing.empty(), "{}: {}: expected {}, missing {}", layout.name, folder.string(),
        fmt::join(all_files(layout), ", "), missing);
}

std::int64_t count_records(const Layout& layout, const fs::path& path) {
  const std::int64_t bytes = file_length(layout.name, path), record = layout.record();
  check(bytes > 0, "{}: {}: expected records of {} bytes, found an empty file", layout.name, path.string(), record);
  check(bytes % record == 0,
        "{}: {}: expected whole records of {} bytes, found {} bytes: record {} at byte {} has only {}", layout.name,
        path.string(), record, bytes, bytes / record, bytes - bytes % record, bytes % record);
  return bytes / record;
}

/// Reads the file's records into images [n,32,32,3] and labels [n].
void read_records(const Layout& layout, const fs::path& path, std::int64_t n, std::uint8_t* images,
                  std::int64_t* labels) {
  const std::int64_t record = layout.record();
  Scratch<std::uint8_t> bytes(static_cast<std::size_t>(n * record));
  read_file(layout.name, path, {bytes.data(), bytes.size()});
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::size_t k = 0; k < layout.labels.size(); ++k) {
      const std::int64_t at = i * record + static_cast<std::int64_t>(k);
      const int label = bytes.data()[at];
      check(label < layout.labels[k].classes, "{}: {}: record {}, byte {}: expected a {} of 0 to {}, found {}",
            layout.name, path.string(), i, at, layout.labels[k].name, layout.labels[k].classes - 1, label);
      labels[i] = label;
    }
  }
  parallel_for(n, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::uint8_t* planes = bytes.data() + (i + 1) * record - kPixels;  // [3, 32*32]
      std::uint8_t* pixels = images + i * kPixels;                             // [32*32, 3]
      for (std::int64_t p = 0; p < kPlane; ++p) {
        for (std::int64_t c = 0; c < 3; ++c) pixels[3 * p + c] = planes[c * kPlane + p];
      }
    }
  });
}

ImageSet load_files(const Layout& layout, const fs::path& folder, const std::vector<std::string>& files) {
  std::vector<std::int64_t> counts;
  std::int64_t total = 0;
  for (const auto& file : files) total += counts.emplace_back(count_records(layout, folder / file));
  ImageSet set{Tensor::empty({total, kSide, kSide, 3}, Dtype::uint8), Tensor::empty({total}, Dtype::int64),
               layout.class_names};
  std::int64_t first = 0;
  for (std::size_t f = 0; f < files.size(); ++f) {
    read_records(layout, folder / files[f], counts[f], set.images.data<std::uint8_t>() + first * kPixels,
                 set.labels.data<std::int64_t>() + first);
    first += counts[f];
  }
  return set;
}

}  // namespace

std::optional<CifarKind> recognise_cifar(const fs::path& folder) {
  for (const CifarKind kind : {CifarKind::cifar10, CifarKind::cifar100}) {
    const auto files = all_files(layout_of(kind));
    if (std::ranges::any_of(files, [&](const auto& file) { return fs::exists(folder / file); })) return kind;
  }
  return std::nullopt;
}

DataSets load_cifar(CifarKind kind, const fs::path& folder) {
  const Layout& layout = layout_of(kind);
  check_present(layout, folder);
  DataSets data{
      layout.name, load_files(layout, folder, layout.train_files), load_files(layout, folder, layout.test_files), {}};
  // CIFAR-10's are fixed to the published digits, so that runs compare with others' of the same recipe.
  data.normalisation = kind == CifarKind::cifar10
                           ? Normalisation{{0.4914f, 0.4822f, 0.4465f}, {0.2470f, 0.2435f, 0.2616f}}
                           : channel_statistics(data.train.images);
  return data;
}

}  // namespace dattn
