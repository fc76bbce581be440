// The one file that holds stb_image and stb_image_resize.
#include "datasets/picture.h"

#include <algorithm>
#include <cstdlib>
#include <memory>

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

Picture decode_picture(const std::string& name, std::span<const std::uint8_t> bytes) {
  check_picture_structure(name, bytes);
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
