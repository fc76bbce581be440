// One picture from the bytes of a PNG, JPEG or BMP file, decoded by stb_image once its structure is known to be whole.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace dattn {

/// The largest picture that is read: this many pixels in all, and along a side.
inline constexpr std::int64_t kMaxPicturePixels = std::int64_t{1} << 25, kMaxPictureSide = 16384;

struct Picture {
  std::int64_t height = 0, width = 0;
  std::vector<std::uint8_t> rgb;  ///< [height,width,3]
};

/// Decodes; the format is told by the bytes, not by the name. Grey becomes RGB, an alpha channel is dropped, 16 bits
/// become 8; a camera's note that a picture is turned is not heeded. What follows the picture's own end in the file is
/// ignored, as the formats have it. Error `image: NAME: byte B: expected ..., found ...` for other formats, files cut
/// short, PNG check sums that differ, pictures too large, and whatever stb_image refuses.
Picture decode_picture(const std::string& name, std::span<const std::uint8_t> bytes);

/// Writes the picture at size x size, [size,size,3]: stretched by linear interpolation, smoothed over all covered
/// pixels where it shrinks.
void resize_picture(const Picture& picture, std::int64_t size, std::uint8_t* rgb);

}  // namespace dattn
