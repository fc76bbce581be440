// Walks train/CLASS/ and test/CLASS/, and reads the pictures in parallel.
#include "datasets/image_folder.h"

#include <algorithm>

#include "core/memory.h"
#include "core/parallel.h"
#include "core/state_file.h"
#include "datasets/files.h"
#include "datasets/picture.h"

namespace dattn {

namespace fs = std::filesystem;

namespace {

constexpr std::int64_t kMaxFileBytes = std::int64_t{1} << 28;

/// Sorted names of what is in a folder, without hidden ones.
std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (auto name = entry.path().filename().string(); name.front() != '.') names.push_back(std::move(name));
  }
  std::ranges::sort(names);
  return names;
}

/// The class folders of train/ or test/.
std::vector<std::string> classes_in(const fs::path& split) {
  auto names = names_in(split);
  for (const auto& name : names) {
    check(fs::is_directory(split / name), "image_folder: {}: expected folders only, one for each class, found '{}'",
          split.string(), name);
    check(is_utf8(name), "image_folder: {}: expected class names in UTF-8, found one of other bytes", split.string());
  }
  check(!names.empty(), "image_folder: {}: expected a folder of images for each class, found none", split.string());
  return names;
}

std::string extension_of(const fs::path& path) {
  std::string extension = path.extension().string();
  std::ranges::transform(extension, extension.begin(), [](unsigned char c) { return std::tolower(c); });
  return extension;
}

/// The images of one class.
std::vector<fs::path> images_in(const fs::path& folder) {
  std::vector<fs::path> paths;
  for (const auto& name : names_in(folder)) {
    const auto& path = paths.emplace_back(folder / name);
    const std::string extension = extension_of(path);
    const bool known = extension == ".png" || extension == ".jpg" || extension == ".jpeg" || extension == ".bmp";
    check(known && !fs::is_directory(path),
          "image_folder: {}: expected .png, .jpg, .jpeg and .bmp files only, found '{}'", folder.string(), name);
  }
  check(!paths.empty(), "image_folder: {}: expected images, found none", folder.string());
  return paths;
}

void read_image(const fs::path& path, std::int64_t size, std::uint8_t* rgb) {
  const std::int64_t length = file_length("image", path);
  check(length <= kMaxFileBytes, "image: {}: expected at most {} bytes, found {}", path.string(), kMaxFileBytes,
        length);
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(length));  // not the pool's, which keeps a block a thread
  read_file("image", path, bytes);
  resize_picture(decode_picture(path.string(), bytes), size, rgb);
}

ImageSet load_split(const fs::path& split, const std::vector<std::string>& classes, std::int64_t size) {
  std::vector<fs::path> paths;
  std::vector<std::int64_t> labels;
  for (std::size_t i = 0; i < classes.size(); ++i) {
    for (auto& path : images_in(split / classes[i])) {
      paths.push_back(std::move(path));
      labels.push_back(static_cast<std::int64_t>(i));
    }
  }
  const auto n = static_cast<std::int64_t>(paths.size());
  ImageSet set{Tensor::empty({n, size, size, 3}, Dtype::uint8), Tensor::from<std::int64_t>({n}, labels), classes};
  auto* images = set.images.data<std::uint8_t>();
  parallel_for(n, 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      read_image(paths[static_cast<std::size_t>(i)], size, images + i * size * size * 3);
  });
  return set;
}

}  // namespace

bool is_image_folder(const fs::path& folder) {
  return std::ranges::any_of(std::array{"train", "test", "val"},
                             [&](const char* split) { return fs::is_directory(folder / split); });
}

DataSets load_image_folder(const fs::path& folder, std::int64_t size) {
  check(size >= 1 && size <= 1024, "image_folder: expected an image size of 1 to 1024, got {}", size);
  const fs::path train = folder / "train", test = folder / (fs::is_directory(folder / "test") ? "test" : "val");
  check(fs::is_directory(train), "image_folder: {}: expected train/ inside, found none", folder.string());
  check(fs::is_directory(test), "image_folder: {}: expected test/ or val/ inside, found neither", folder.string());
  const auto classes = classes_in(train), tested = classes_in(test);
  check(classes == tested, "image_folder: {}: expected the classes of train/ ({}), found {}", test.string(),
        fmt::join(classes, ", "), fmt::join(tested, ", "));
  const fs::path absolute = fs::weakly_canonical(folder);
  DataSets data{absolute.filename().string(), load_split(train, classes, size), load_split(test, classes, size), {}};
  data.normalisation = channel_statistics(data.train.images);
  return data;
}

}  // namespace dattn
