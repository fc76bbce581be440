// Walking through PNG, JPEG and BMP files.
#include "datasets/picture_structure.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "core/error.h"

namespace dattn {

namespace {

using Bytes = std::span<const std::uint8_t>;

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
  template <typename... Args>
  void expect(bool ok, std::size_t at, fmt::format_string<Args...> format, Args&&... args) const {
    if (!ok) fail("image: {}: byte {}: expected {}", name, at, fmt::format(format, std::forward<Args>(args)...));
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
  void check_size(std::size_t at, std::int64_t width, std::int64_t height) const {
    const bool ok = width >= 1 && height >= 1 && width <= kMaxPictureSide && height <= kMaxPictureSide;
    expect(ok && width * height <= kMaxPicturePixels, at,
           "a width and a height of 1 to {} and at most {} pixels, found {} x {}", kMaxPictureSide, kMaxPicturePixels,
           width, height);
  }
};

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
    const std::uint32_t sum = crc32(file.bytes.subspan(at + 4, length + 4)), noted = file.big(at + 8 + length, 4);
    file.expect(sum == noted, at + 8 + length, "the check sum {:08x} of a PNG chunk, found {:08x}", sum, noted);
    if (at == 8) {
      file.expect(type == "IHDR" && length == 13, at, "the PNG chunk IHDR of 13 bytes, found another");
      file.check_size(at + 8, file.big(at + 8, 4), file.big(at + 12, 4));
    }
    if (type == "IEND") return;
    at += length + 12;
  }
}

/// Segments of marker, length and content; after a start of scan come coded bytes up to the next marker.
class JpegWalk {
 public:
  explicit JpegWalk(const Source& file) : file_(file) {}

  void run() {
    for (std::size_t at = 2;;) {
      file_.need(at, 2, "a JPEG marker");
      file_.expect(file_.bytes[at] == 0xFF, at, "a JPEG marker (ff), found {:02x}", file_.bytes[at]);
      const std::uint8_t marker = file_.bytes[++at];
      if (marker == 0xFF) continue;  // padding before a marker
      ++at;
      if (marker == kEndOfImage) return check_end(at - 2);
      if (is_restart(marker)) continue;
      at = segment(marker, at);
    }
  }

 private:
  static constexpr std::uint8_t kTables = 0xC4, kStartOfScan = 0xDA, kEndOfImage = 0xD9, kProgressive = 0xC2;

  static bool is_restart(std::uint8_t marker) { return marker >= 0xD0 && marker <= 0xD7; }
  /// A start of frame: C0 to CF, but for C4 and CC (tables) and C8 (reserved).
  static bool is_frame(std::uint8_t marker) {
    return marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC;
  }

  /// The segment whose length stands at `at`; gives where the next one starts.
  std::size_t segment(std::uint8_t marker, std::size_t at) {
    file_.need(at, 2, "the length of a JPEG segment");
    const std::size_t length = file_.big(at, 2), end = at + length;
    file_.expect(length >= 2, at, "the length of a JPEG segment, at least 2, found {}", length);
    file_.need(at, length, "a JPEG segment");
    if (is_frame(marker)) frame(marker, at, end);
    if (marker == kTables) tables(at + 2, end);
    if (marker != kStartOfScan) return end;
    scan(at, end);
    std::size_t next = end;
    const auto is_coded = [&] {
      return file_.bytes[next] != 0xFF || file_.bytes[next + 1] == 0 || is_restart(file_.bytes[next + 1]);
    };
    while (next + 1 < file_.size() && is_coded()) ++next;
    file_.need(next, 2, "a JPEG marker after the coded rows, such as the end of the image");
    return next;
  }

  void frame(std::uint8_t marker, std::size_t at, std::size_t end) {
    file_.expect(components_.empty(), at - 2, "one frame in a JPEG, found a second");
    const std::size_t count = end >= at + 8 ? file_.bytes[at + 7] : 0;
    file_.expect(count >= 1 && count <= 4 && end == at + 8 + 3 * count, at,
                 "a JPEG frame of 1 to 4 components, found another");
    file_.check_size(at + 3, file_.big(at + 5, 2), file_.big(at + 3, 2));
    progressive_ = marker == kProgressive;
    components_ = file_.bytes.subspan(at + 8, 3 * count);
  }

  /// Tables of class and number, 16 counts of codes by length, and the symbols; no more codes than there is room for.
  void tables(std::size_t at, std::size_t end) {
    while (at < end) {
      file_.expect(end - at >= 17, at, "a Huffman table of 17 bytes and its symbols, found {} bytes", end - at);
      const unsigned kind = file_.bytes[at] >> 4, number = file_.bytes[at] & 15;
      std::size_t symbols = 0, room = 1;
      for (std::size_t i = 1; i <= 16; ++i) {
        const std::size_t codes = file_.bytes[at + i];
        symbols += codes;
        room = 2 * room;
        file_.expect(codes <= room, at, "a Huffman table whose codes fit their lengths, found {} of {} bits", codes, i);
        room -= codes;
      }
      file_.expect(kind <= 1 && number <= 3 && symbols <= 256 && end - at >= 17 + symbols, at,
                   "a Huffman table 0 to 3 of at most 256 symbols within its segment, found number {} with {}", number,
                   symbols);
      there_[kind][number] = true;
      at += 17 + symbols;
    }
  }

  /// Components with the tables that they use, and which coefficients are coded.
  void scan(std::size_t at, std::size_t end) {
    const std::size_t count = end > at + 2 ? file_.bytes[at + 2] : 0;
    file_.expect(count >= 1 && count <= 4 && end == at + 6 + 2 * count, at,
                 "a JPEG scan of 1 to 4 components, found another");
    const bool starts_at_mean = file_.bytes[end - 3] == 0, refines = file_.bytes[end - 1] >> 4 != 0;
    for (std::size_t i = at + 3; i < end - 3; i += 2) {
      const unsigned mean_table = file_.bytes[i + 1] >> 4, wave_table = file_.bytes[i + 1] & 15;
      const bool needs_mean = progressive_ ? starts_at_mean && !refines : true,
                 needs_waves = !progressive_ || !starts_at_mean;
      const bool has_mean = !needs_mean || (mean_table <= 3 && there_[0][mean_table]);
      const bool has_waves = !needs_waves || (wave_table <= 3 && there_[1][wave_table]);
      file_.expect(has_mean && has_waves, i + 1, "Huffman tables that are in the file, found numbers {} and {}",
                   mean_table, wave_table);
      for (std::size_t c = 0; c < components_.size(); c += 3) scanned_[c / 3] |= components_[c] == file_.bytes[i];
    }
  }

  void check_end(std::size_t at) const {
    const auto components = static_cast<std::ptrdiff_t>(components_.size() / 3);
    const auto scanned = std::count(scanned_.begin(), scanned_.begin() + components, true);
    file_.expect(components > 0 && scanned == components, at,
                 "a scan of each of {} components before the end of the JPEG, found {}", components, scanned);
  }

  const Source& file_;
  Bytes components_;  // of the frame: number, sampling, quantisation table
  bool progressive_ = false;
  std::array<bool, 4> scanned_{};
  std::array<std::array<bool, 4>, 2> there_{};  // Huffman tables of the means (DC) and of the waves (AC)
};

/// Rows of indices into a palette of `colours`: one beyond them has no colour.
void check_bmp_indices(const Source& file, std::size_t offset, std::int64_t width, std::int64_t height,
                       std::int64_t bits, std::int64_t colours) {
  for (std::int64_t row = 0; row < height; ++row, offset += static_cast<std::size_t>((width * bits + 31) / 32 * 4)) {
    for (std::int64_t i = 0; i < width; ++i) {
      const std::size_t at = offset + static_cast<std::size_t>(i * bits / 8);
      const std::int64_t index = file.bytes[at] >> (8 - bits - i * bits % 8) & ((1 << bits) - 1);
      file.expect(index < colours, at, "an index into the {} colours of a BMP, found {}", colours, index);
    }
  }
}

/// A fixed header, then rows padded to four bytes from a given offset on; the uncompressed kinds.
void check_bmp(const Source& file) {
  file.need(0, 26, "a BMP header");
  const std::uint32_t offset = file.little(10, 4), header = file.little(14, 4);
  const bool is_old = header == 12;
  if (!is_old) file.need(14, std::max<std::uint32_t>(header, 40), "a BMP header");
  const auto signed_at = [&](std::size_t at) { return std::int64_t{static_cast<std::int32_t>(file.little(at, 4))}; };
  const std::int64_t width = is_old ? file.little(18, 2) : signed_at(18);
  const std::int64_t height = std::abs(is_old ? file.little(20, 2) : signed_at(22));  // negative: from top to bottom
  const std::int64_t bits = file.little(is_old ? 24 : 28, 2);
  file.check_size(18, width, height);
  file.need(offset, static_cast<std::size_t>((width * bits + 31) / 32 * 4 * height), "the rows of a BMP");
  if (bits > 8) return;
  file.expect(bits == 1 || bits == 4 || bits == 8, is_old ? 24 : 28,
              "a BMP of 1, 4 or 8 bits a pixel, or more, found {}", bits);
  // stb_image counts a palette of the old kind four entries short.
  const std::int64_t head = is_old ? 38 : std::int64_t{14} + header, entry = is_old ? 3 : 4;
  check_bmp_indices(file, offset, width, height, bits, std::max<std::int64_t>(0, (offset - head) / entry));
}

bool starts_with(Bytes bytes, std::string_view start) {
  return bytes.size() >= start.size() && std::memcmp(bytes.data(), start.data(), start.size()) == 0;
}

}  // namespace

void check_picture_structure(const std::string& name, Bytes bytes) {
  const Source file{name, bytes};
  if (starts_with(bytes, "\x89PNG\r\n\x1a\n")) {
    check_png(file);
  } else if (starts_with(bytes, "\xff\xd8\xff")) {
    JpegWalk(file).run();
  } else if (starts_with(bytes, "BM")) {
    check_bmp(file);
  } else {
    file.expect(false, 0, "a PNG, JPEG or BMP file, found {}",
                bytes.empty()
                    ? "an empty file"
                    : fmt::format("{:02x}", fmt::join(bytes.first(std::min<std::size_t>(8, bytes.size())), " ")));
  }
}

}  // namespace dattn
