// The one file that holds stb_image and stb_image_resize.
#include "datasets/picture.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "core/error.h"
#include "datasets/picture_structure.h"

namespace {

// No single block of stb_image may be larger: a small PNG can inflate a thousandfold. New blocks are zeros, for
// stb_image 2.27 reads tables that a file leaves out.
constexpr std::size_t kMaxBlock = std::size_t{1} << 29;
void* bounded_malloc(std::size_t bytes) { return bytes <= kMaxBlock ? std::calloc(1, bytes) : nullptr; }
void* bounded_realloc(void* block, std::size_t bytes) {
  return bytes <= kMaxBlock ? std::realloc(block, bytes) : nullptr;
}

}  // namespace

#define STBI_MALLOC(bytes) bounded_malloc(bytes)
#define STBI_REALLOC(block, bytes) bounded_realloc(block, bytes)
#define STBI_FREE(block) std::free(block)
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

// A PNG whose palette has all 256 colours, those that the file leaves out black: stb_image would read what is in its
// memory by chance. Other pictures as they are. (Nobody looks at the chunk's check sum any more.)
std::vector<std::uint8_t> with_whole_palette(std::span<const std::uint8_t> bytes) {
  constexpr std::size_t kColours = 3 * 256, kSignature = 8;
  std::vector<std::uint8_t> whole(bytes.begin(), bytes.end());
  if (bytes[0] != 0x89) return whole;
  for (std::size_t at = kSignature; at + 8 <= whole.size();) {
    const std::size_t length = std::size_t{whole[at]} << 24 | std::size_t{whole[at + 1]} << 16 |
                               std::size_t{whole[at + 2]} << 8 | whole[at + 3];
    if (std::memcmp(whole.data() + at + 4, "PLTE", 4) == 0 && length < kColours) {
      whole.insert(whole.begin() + static_cast<std::ptrdiff_t>(at + 8 + length), kColours - length, 0);
      whole[at + 2] = kColours >> 8, whole[at + 3] = kColours & 255;
      return whole;
    }
    at += length + 12;
  }
  return whole;
}

}  // namespace

Picture decode_picture(const std::string& name, std::span<const std::uint8_t> file) {
  check_picture_structure(name, file);
  const std::vector<std::uint8_t> bytes = with_whole_palette(file);
  int width = 0, height = 0, channels = 0;
  const std::unique_ptr<stbi_uc, void (*)(void*)> pixels(
      stbi_load_from_memory(bytes.data(), static_cast<int>(bytes.size()), &width, &height, &channels, 3),
      stbi_image_free);
  check(pixels != nullptr, "image: {}: expected a whole picture in {} bytes, found one that cannot be decoded: {}",
        name, file.size(), stbi_failure_reason());
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
