// Making data files for tests; pictures through stb_image_write.
#include "data_files.h"

#include <cmath>
#include <filesystem>
#include <fstream>

#define STB_IMAGE_WRITE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb_image_write.h>

namespace dattn::test {

void DataFolder::write(const std::string& name, const ByteList& bytes) const {
  std::filesystem::create_directories(std::filesystem::path(*this / name).parent_path());
  std::ofstream file(*this / name, std::ios::binary);
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

ByteList DataFolder::read(const std::string& name) const {
  const std::string text = read_text(*this / name);
  return {text.begin(), text.end()};
}

testing::AssertionResult contains(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "expected a text with '" << part << "', found '" << text << "'";
}

ByteList cifar_records(int count, int label_bytes, int classes, std::uint32_t lane) {
  Random random(5, Purpose::test, 0, lane);
  ByteList bytes;
  for (int i = 0; i < count; ++i) {
    bytes.resize(bytes.size() + static_cast<std::size_t>(label_bytes) - 1);
    bytes.push_back(static_cast<std::uint8_t>(i % classes));
    for (int p = 0; p < 3072; ++p) bytes.push_back(static_cast<std::uint8_t>(random.next_below(256)));
  }
  return bytes;
}

void write_cifar10(const DataFolder& folder, const std::string& inside, int count) {
  for (std::uint32_t i = 1; i <= 5; ++i) {
    folder.write(inside + "data_batch_" + std::to_string(i) + ".bin", cifar_records(count, 1, 10, i));
  }
  folder.write(inside + "test_batch.bin", cifar_records(count, 1, 10));
}

ByteList encode_picture(PictureFormat format, int height, int width, int channels, const ByteList& pixels) {
  ByteList file;
  const auto append = [](void* to, void* data, int size) {
    const auto* bytes = static_cast<std::uint8_t*>(data);
    static_cast<ByteList*>(to)->insert(static_cast<ByteList*>(to)->end(), bytes, bytes + size);
  };
  switch (format) {
    case PictureFormat::png:
      stbi_write_png_to_func(append, &file, width, height, channels, pixels.data(), 0);
      break;
    case PictureFormat::jpeg:
      stbi_write_jpg_to_func(append, &file, width, height, channels, pixels.data(), 95);
      break;
    case PictureFormat::bmp:
      stbi_write_bmp_to_func(append, &file, width, height, channels, pixels.data());
      break;
  }
  return file;
}

ByteList picture_file(PictureFormat format, int height, int width, int channels) {
  ByteList pixels;
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      for (int c = 0; c < channels; ++c) {
        pixels.push_back(static_cast<std::uint8_t>(128 + 60 * std::sin(0.2 * x + c) + 60 * std::cos(0.15 * y - c)));
      }
    }
  }
  return encode_picture(format, height, width, channels, pixels);
}

ByteList mutated(ByteList bytes, Random& random) {
  for (auto changes = 1 + random.next_below(4); changes > 0 && !bytes.empty(); --changes) {
    const auto at = static_cast<std::ptrdiff_t>(random.next_below(bytes.size()));
    const auto length = std::min<std::ptrdiff_t>(1 + static_cast<std::ptrdiff_t>(random.next_below(16)),
                                                 static_cast<std::ptrdiff_t>(bytes.size()) - at);
    switch (random.next_below(6)) {
      case 0:
        bytes.resize(static_cast<std::size_t>(at));
        break;
      case 1:
        bytes.erase(bytes.begin() + at, bytes.begin() + at + length);
        break;
      case 2: {
        const ByteList piece(bytes.begin() + at, bytes.begin() + at + length);
        bytes.insert(bytes.begin() + at, piece.begin(), piece.end());
        break;
      }
      case 3:
        bytes[static_cast<std::size_t>(at)] ^= static_cast<std::uint8_t>(1u << random.next_below(8));
        break;
      default:
        bytes[static_cast<std::size_t>(at)] = static_cast<std::uint8_t>(random.next_below(256));
    }
  }
  return bytes;
}

}  // namespace dattn::test
