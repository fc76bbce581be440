// Folders of images by class: train/CLASS/*.png and test/CLASS/*.png, or val/ for test/; PNG, JPEG or BMP.
#pragma once

#include <filesystem>

#include "datasets/images.h"

namespace dattn {

/// Whether it looks like one: has train/ inside, or test/, or val/.
bool is_image_folder(const std::filesystem::path& folder);

/// Reads every image, converted to RGB and resized to size x size (stretched, smoothed when shrunk). Classes are the
/// sorted names of the folders in train/, images in the sorted order of their names; names that start with a dot are
/// left out. Error: no class, a class without images, other classes in test/ than in train/, a file that is no whole
/// image.
DataSets load_image_folder(const std::filesystem::path& folder, std::int64_t size);

}  // namespace dattn
