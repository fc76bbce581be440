// One picture from the bytes of a PNG, JPEG or BMP file, through stb_image, and at another size.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace dattn {

struct Picture {
  std::int64_t height = 0, width = 0;
  std::vector<std::uint8_t> rgb;  ///< [height,width,3]
};

/// Decodes; the format is told by the bytes, not by the name. Grey becomes RGB, an alpha channel is dropped, 16 bits
/// become 8; a camera's note that a picture is turned is not heeded. What follows the picture's own end in the file is
/// ignored, as the formats have it. Error naming the file for one that is not whole (datasets/picture_structure.h) or
/// that stb_image refuses.
Picture decode_picture(const std::string& name, std::span<const std::uint8_t> bytes);

/// Writes the picture at size x size, [size,size,3]: stretched by linear interpolation, smoothed over all that is
/// covered where it shrinks.
void resize_picture(const Picture& picture, std::int64_t size, std::uint8_t* rgb);

}  // namespace dattn
