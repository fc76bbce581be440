// Walks through a file's structure, which stb_image does not check to the end, then decodes with stb_image.
#include "datasets/picture.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string_view>

#include "core/error.h"

namespace {

// No single block of stb_image may be larger: a small PNG can inflate a thousandfold.
constexpr std::size_t kMaxBlock = std::size_t{1} << 29;
void* bounded_realloc(void* block, std::size_t bytes) {
  return bytes <= kMaxBlock ? std::realloc(block, bytes) : nullptr;
}

}  // namespace

#define STBI_MALLOC(bytes) bounded_realloc(nullptr, bytes)
#define STBI_REALLOC(block, bytes) bounded_realloc(block, bytes)
#define STBI_FREE(block) std::free(block)
#define STBI_MAX_DIMENSIONS 16384
#define STBI_ONLY_PNG
#define STBI_ONLY_JPEG
#define STBI_ONLY_BMP
#define STBI_NO_STDIO
#define STB_IMAGE_STATIC
#define STB_IMAGE_IMPLEMENTATION
#include <stb_image.h>
#define STB_IMAGE_RESIZE_STATIC
#define STB_IMAGE_RESIZE_IMPLEMENTATION
#include <stb_image_resize.h>

namespace dattn {

namespace {

using Bytes = std::span<const std::uint8_t>;

static_assert(kMaxPictureSide == STBI_MAX_DIMENSIONS);

/// The bytes of a file, and errors that name it and a place in it.
struct Source {
  const std::string& name;
  Bytes bytes;

  std::size_t size() const { return bytes.size(); }
  void need(std::size_t at, std::size_t count, const char* what) const {
    check(at <= size() && count <= size() - at,
          "image: {}: byte {}: expected {} ({} bytes), found the end of the file at byte {}", name, at, what, count,
          size());
  }
  std::uint32_t big(std::size_t at, int count) const {
    std::uint32_t value = 0;
    for (int i = 0; i < count; ++i) value = value << 8 | bytes[at + static_cast<std::size_t>(i)];
    return value;
  }
  std::uint32_t little(std::size_t at, int count) const {
    std::uint32_t value = 0;
    for (int i = count; i-- > 0;) value = value << 8 | bytes[at + static_cast<std::size_t>(i)];
    return value;
  }
};

void check_size(const Source& file, std::size_t at, std::int64_t width, std::int64_t height) {
  check(width >= 1 && height >= 1 && width <= kMaxPictureSide && height <= kMaxPictureSide &&
            width * height <= kMaxPicturePixels,
        "image: {}: byte {}: expected a width and a height of 1 to {} and at most {} pixels, found {} x {}", file.name,
        at, kMaxPictureSide, kMaxPicturePixels, width, height);
}

/// The check sum of a PNG chunk: CRC-32 of ISO 3309, reflected.
std::uint32_t crc32(Bytes bytes) {
  static constexpr auto kTable = [] {
    std::array<std::uint32_t, 256> table{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      table[i] = i;
      for (int bit = 0; bit < 8; ++bit) table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xEDB88320u : 0);
    }
    return table;
  }();
  std::uint32_t crc = ~0u;
  for (const std::uint8_t byte : bytes) crc = crc >> 8 ^ kTable[(crc ^ byte) & 255];
  return ~crc;
}

/// Chunks of length, type, content and check sum, from IHDR to IEND.
void check_png(const Source& file) {
  for (std::size_t at = 8;;) {
    file.need(at, 8, "the head of a PNG chunk");
    const std::size_t length = file.big(at, 4);
    const std::string_view type(reinterpret_cast<const char*>(file.bytes.data()) + at + 4, 4);
    file.need(at + 8, length + 4, "a PNG chunk and its check sum");
    const std::uint32_t expected = file.big(at + 8 + length, 4), found = crc32(file.bytes.subspan(at + 4, length + 4));
    check(expected == found, "image: {}: byte {}: expected the check sum {:08x} of a PNG chunk, found {:08x}",
          file.name, at + 8 + length, found, expected);
    if (at == 8) {
      check(type == "IHDR" && length == 13, "image: {}: byte 8: expected the PNG chunk IHDR of 13 bytes, found another",
            file.name);
      check_size(file, at + 8, file.big(at + 8, 4), file.big(at + 12, 4));
    }
    if (type == "IEND") return;
    at += length + 12;
  }
}

/// Segments of marker, length and content; after a start of scan come coded bytes up to the next marker. To the end of
/// image.
void check_jpeg(const Source& file) {
  constexpr std::uint8_t kStartOfScan = 0xDA, kEndOfImage = 0xD9;
  const auto is_restart = [](std::uint8_t marker) { return marker >= 0xD0 && marker <= 0xD7; };
  const auto is_frame = [](std::uint8_t marker) {  // a start of frame: C0 to CF but for tables (C4, CC) and C8
    return marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC;
  };
  for (std::size_t at = 2;;) {
    file.need(at, 2, "a JPEG marker");
    check(file.bytes[at] == 0xFF, "image: {}: byte {}: expected a JPEG marker (ff), found {:02x}", file.name, at,
          file.bytes[at]);
    const std::uint8_t marker = file.bytes[at + 1];
    if (marker == 0xFF) {  // padding before a marker
      ++at;
      continue;
    }
    at += 2;
    if (marker == kEndOfImage) return;
    if (is_restart(marker)) continue;
    file.need(at, 2, "the length of a JPEG segment");
    const std::size_t length = file.big(at, 2);
    file.need(at, std::max<std::size_t>(length, 2), "a JPEG segment");
    if (is_frame(marker)) {
      file.need(at, 7, "a JPEG frame header");
      check_size(file, at + 3, file.big(at + 5, 2), file.big(at + 3, 2));
    }
    at += std::max<std::size_t>(length, 2);
    if (marker != kStartOfScan) continue;
    while (at + 1 < file.size() &&
           (file.bytes[at] != 0xFF || file.bytes[at + 1] == 0 || is_restart(file.bytes[at + 1])))
      ++at;
    file.need(at, 2, "the end-of-image marker of a JPEG (ff d9)");
  }
}

/// A fixed header, then rows padded to four bytes from a given offset on. Only uncompressed ones, as stb_image.
void check_bmp(const Source& file) {
  file.need(0, 26, "a BMP header");
  const std::uint32_t offset = file.little(10, 4), header = file.little(14, 4);
  const bool is_old = header == 12;
  if (!is_old) file.need(14, std::max<std::uint32_t>(header, 40), "a BMP header");
  const std::int64_t width = is_old ? file.little(18, 2) : static_cast<std::int32_t>(file.little(18, 4));
  const std::int64_t height = is_old ? file.little(20, 2) : static_cast<std::int32_t>(file.little(22, 4));
  const std::int64_t bits = file.little(is_old ? 24 : 28, 2);
  check_size(file, 18, width, std::abs(height));  // a negative height: rows from top to bottom
  const std::int64_t row = (width * bits + 31) / 32 * 4;
  file.need(offset, static_cast<std::size_t>(row * std::abs(height)), "the rows of a BMP");
}

bool starts_with(Bytes bytes, std::string_view start) {
  return bytes.size() >= start.size() && std::memcmp(bytes.data(), start.data(), start.size()) == 0;
}

}  // namespace

Picture decode_picture(const std::string& name, Bytes bytes) {
  const Source file{name, bytes};
  if (starts_with(bytes, "\x89PNG\r\n\x1a\n")) {
    check_png(file);
  } else if (starts_with(bytes, "\xff\xd8\xff")) {
    check_jpeg(file);
  } else if (starts_with(bytes, "BM")) {
    check_bmp(file);
  } else {
    fail("image: {}: byte 0: expected a PNG, JPEG or BMP file, found {}", name,
         bytes.empty() ? "an empty file"
                       : fmt::format("{:02x}", fmt::join(bytes.first(std::min<std::size_t>(8, bytes.size())), " ")));
  }
  int width = 0, height = 0, channels = 0;
  const std::unique_ptr<stbi_uc, void (*)(void*)> pixels(
      stbi_load_from_memory(bytes.data(), static_cast<int>(bytes.size()), &width, &height, &channels, 3),
      stbi_image_free);
  check(pixels != nullptr, "image: {}: expected a whole picture in {} bytes, found one that cannot be decoded: {}",
        name, bytes.size(), stbi_failure_reason());
  Picture picture{height, width, {}};
  picture.rgb.assign(pixels.get(), pixels.get() + picture.height * picture.width * 3);
  return picture;
}

void resize_picture(const Picture& picture, std::int64_t size, std::uint8_t* rgb) {
  if (picture.height == size && picture.width == size) {
    std::ranges::copy(picture.rgb, rgb);
    return;
  }
  const int ok =
      stbir_resize_uint8_generic(picture.rgb.data(), static_cast<int>(picture.width), static_cast<int>(picture.height),
                                 0, rgb, static_cast<int>(size), static_cast<int>(size), 0, 3, STBIR_ALPHA_CHANNEL_NONE,
                                 0, STBIR_EDGE_CLAMP, STBIR_FILTER_TRIANGLE, STBIR_COLORSPACE_LINEAR, nullptr);
  check(ok == 1, "image: no memory to resize {}x{} to {}x{}", picture.width, picture.height, size, size);
}

}  // namespace dattn
