// Labelled images in memory, and the one function that finds them: load_data.
#pragma once

#include <array>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/tensor.h"

namespace dattn {

/// Images of one size with the class of each; whole in memory, as bytes.
struct ImageSet {
  Tensor images;  ///< uint8 [N,H,W,3]
  Tensor labels;  ///< int64 [N], each below class_names.size()
  std::vector<std::string> class_names;

  std::int64_t count() const { return labels.elements(); }
  std::int64_t classes() const { return static_cast<std::int64_t>(class_names.size()); }
};

/// Mean and standard deviation of each channel, of pixels scaled to 0..1. A network sees (pixel / 255 - mean) / std.
struct Normalisation {
  std::array<float, 3> mean{}, std{1, 1, 1};
};

/// A data set: what is trained on, what is tested on, and how both are normalised.
struct DataSets {
  std::string name;  ///< "cifar10", "cifar100", "synthetic", or a folder's own name
  ImageSet train, test;
  Normalisation normalisation;
};

struct LoadOptions {
  std::int64_t image_size = 32;                      ///< height and width that the images of a folder are resized to
  std::filesystem::path cache{};                     ///< where downloads are kept; empty: cache_folder()
  std::function<void(const std::string&)> report{};  ///< told of slow steps (a download), where it is set
};

/// Loads `synthetic` (drawn, needs no file), `cifar10` (downloaded once), or a folder, recognised by what is in it:
/// CIFAR-10 binary, CIFAR-100 binary, or train/ and test/ (or val/) with one folder of images a class. Throws Error
/// naming the file, the byte, what was expected and what was found.
DataSets load_data(const std::string& source, const LoadOptions& options = {});

/// A hash of images, labels and names of classes, as hexadecimal digits: the same for the same data wherever it lies.
/// The images are on the CPU.
std::string fingerprint(const DataSets& data);

/// Mean and deviation over all pixels of images uint8 [N,H,W,3]. A channel that never changes has deviation 1/255.
Normalisation channel_statistics(const Tensor& images);

/// labels [picks] = those of the picked images. Error where one is not among the classes.
void take_labels(const ImageSet& set, std::span<const std::int64_t> picks, Tensor& labels);

/// `count` images uint8 [count,H,W,3] of a set, chosen by the seed, or all where it has fewer. In a set whose classes
/// come one after the other or in turn, the first images, or every second one, would miss some.
Tensor draw_images(const ImageSet& set, std::int64_t count, std::uint64_t seed);

/// Splits off `count` images, chosen by the seed: {the others, the chosen}, disjoint, both in their old order. Error
/// unless 0 <= count < images.
std::pair<ImageSet, ImageSet> holdout(const ImageSet& set, std::int64_t count, std::uint64_t seed);

}  // namespace dattn
