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

// Where the chunk PLTE of a PNG begins, with its length; 0 where there is none, or another kind of picture.
std::size_t find_palette(std::span<const std::uint8_t> file, std::size_t& length) {
  if (file[0] != 0x89) return 0;
  for (std::size_t at = 8; at + 8 <= file.size(); at += length + 12) {
    length =
        std::size_t{file[at]} << 24 | std::size_t{file[at + 1]} << 16 | std::size_t{file[at + 2]} << 8 | file[at + 3];
    const auto is = [&](const char* type) { return std::memcmp(file.data() + at + 4, type, 4) == 0; };
    if (is("PLTE")) return at;
    if (is("IEND")) return 0;
  }
  return 0;
}

// The bytes that stb_image decodes: those of the file, but for a PNG whose palette has fewer than 256 colours. These it
// gets in `whole` with black for the others, which it would read from its memory by chance. (It looks at no check sum.)
std::span<const std::uint8_t> with_whole_palette(std::span<const std::uint8_t> file, std::vector<std::uint8_t>& whole) {
  constexpr std::size_t kBytes = 3 * 256;
  std::size_t length = 0;
  const std::size_t at = find_palette(file, length);
  if (at == 0 || length >= kBytes || length % 3 != 0) return file;
  whole.assign(file.begin(), file.end());
  whole.insert(whole.begin() + static_cast<std::ptrdiff_t>(at + 8 + length), kBytes - length, 0);
  whole[at + 2] = kBytes >> 8, whole[at + 3] = kBytes & 255;
  return whole;
}

}  // namespace

Picture decode_picture(const std::string& name, std::span<const std::uint8_t> file) {
  check_picture_structure(name, file);
  std::vector<std::uint8_t> whole;
  const auto bytes = with_whole_palette(file, whole);
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
