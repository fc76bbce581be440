// The structure of PNG, JPEG and BMP files, walked through to its end: what a decoder that forgives would load by
// halves.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace dattn {

/// The largest picture that is read: this many pixels in all, and along a side.
inline constexpr std::int64_t kMaxPicturePixels = std::int64_t{1} << 25, kMaxPictureSide = 16384;

/// Error `image: NAME: byte B: expected ..., found ...` unless the bytes are a whole file of one of the three formats,
/// of a size within the bounds: PNG chunks with their check sums up to IEND; JPEG segments up to the end of image, with
/// Huffman tables that are well-formed and there for each scan, and a scan for each component; the rows of a BMP. The
/// decoder relies on it.
void check_picture_structure(const std::string& name, std::span<const std::uint8_t> bytes);

}  // namespace dattn
