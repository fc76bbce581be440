// State files: the header's grammar and the checks of its numbers.
#include "core/state_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>
#include <vector>

#include "core/whole_file.h"

namespace dattn {

static_assert(std::endian::native == std::endian::little, "state files are little-endian");

std::string shown(const std::string& text) {
  constexpr std::size_t kLongest = 80;
  const std::string start = text.substr(0, kLongest) + (text.size() > kLongest ? "..." : "");
  return nlohmann::json(start).dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

namespace {

using Json = nlohmann::json;

constexpr std::uint64_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of Python's package
constexpr const char* kMetadataKey = "__metadata__";

/// Types that dattn holds, in the order in which Python's package lays them out.
constexpr std::array<std::pair<const char*, Dtype>, 6> kTypes{{{"I64", Dtype::int64},
                                                               {"F64", Dtype::float64},
                                                               {"F32", Dtype::float32},
                                                               {"I32", Dtype::int32},
                                                               {"BF16", Dtype::bfloat16},
                                                               {"U8", Dtype::uint8}}};

auto type_of(Dtype dtype) {
  return std::find_if(kTypes.begin(), kTypes.end(), [dtype](const auto& type) { return type.second == dtype; });
}

// --- reading ---

/// What the header says about one tensor.
struct Entry {
  std::string name;
  Dtype dtype = Dtype::float32;
  std::vector<std::int64_t> shape;
  std::vector<std::uint64_t> offsets;  // begin, end: bytes after the header
};

struct Header {
  std::vector<Entry> entries;
  Metadata metadata;
};

/// Takes the JSON parser's events. Anything but the format's own three levels is an Error at once, so nothing nests
/// deeper.
class HeaderReader : public nlohmann::json_sax<Json> {
 public:
  HeaderReader(const std::string& file, Header& header) : file_(file), header_(header) {}

  bool start_object(std::size_t) override {
    if (in_ == In::file) return enter(In::header);
    if (in_ != In::header) unexpected("an object");
    if (key_ == kMetadataKey) return enter(In::metadata);
    header_.entries.push_back({key_, {}, {}, {}});
    fields_.clear();
    return enter(In::tensor);
  }

  bool end_object() override {
    if (in_ == In::tensor) {
      for (const auto field : kFields) {
        if (!fields_.contains(std::string(field))) refuse(fmt::format("has no {}", field));
      }
    }
    return enter(in_ == In::header ? In::file : In::header);
  }

  bool key(std::string& key) override {
    key_ = key;
    if (in_ == In::header) {
      if (!names_.insert(key).second) fail("{}: the header holds {} twice", file_, shown(key));
    } else if (in_ == In::metadata) {
      if (!header_.metadata.emplace(key, "").second) fail("{}: the metadata hold {} twice", file_, shown(key));
    } else {
      const bool known = std::find(kFields.begin(), kFields.end(), key) != kFields.end();
      if (!known) refuse(fmt::format("has an unknown field {}", shown(key)));
      if (!fields_.insert(key).second) refuse(fmt::format("has {} twice", key));
    }
    return true;
  }

  bool string(std::string& value) override {
    if (in_ == In::metadata) {
      header_.metadata[key_] = value;
      return true;
    }
    if (in_ != In::tensor || key_ != "dtype") unexpected("a string");
    const auto type = std::find_if(kTypes.begin(), kTypes.end(), [&](const auto& t) { return t.first == value; });
    if (type == kTypes.end()) {
      refuse(fmt::format("is of type {}, which dattn cannot hold (it holds F32 F64 BF16 I64 I32 U8)", shown(value)));
    }
    entry().dtype = type->second;
    return true;
  }

  bool start_array(std::size_t) override {
    if (in_ != In::tensor || key_ == "dtype") unexpected("an array");
    return enter(key_ == "shape" ? In::shape : In::offsets);
  }

  bool end_array() override {
    if (in_ == In::offsets && entry().offsets.size() != 2) refuse("has fewer than 2 data_offsets");
    return enter(In::tensor);
  }

  bool number_unsigned(std::uint64_t value) override {
    if (in_ == In::shape) {
      if (entry().shape.size() == Shape::kMaxRank)
        refuse(fmt::format("has more than {} dimensions", int{Shape::kMaxRank}));
      if (value > std::numeric_limits<std::int64_t>::max())
        refuse(fmt::format("has a size of {}, too large for 63 bits", value));
      entry().shape.push_back(static_cast<std::int64_t>(value));
    } else if (in_ == In::offsets) {
      if (entry().offsets.size() == 2) refuse("has more than 2 data_offsets");
      entry().offsets.push_back(value);
    } else {
      unexpected("a number");
    }
    return true;
  }

  bool null() override {
    if (in_ != In::header || key_ != kMetadataKey) unexpected("null");
    return true;  // Python's package reads it as no metadata
  }
  bool boolean(bool) override { unexpected("a truth value"); }
  bool number_integer(std::int64_t) override { unexpected("a negative number"); }
  bool number_float(double, const std::string&) override { unexpected("a number that is no 64-bit integer"); }
  bool binary(Json::binary_t&) override { unexpected("binary data"); }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    fail("{}: the header is not valid JSON at its byte {}", file_, position);
  }

 private:
  static constexpr std::array<std::string_view, 3> kFields{"dtype", "shape", "data_offsets"};
  enum class In { file, header, metadata, tensor, shape, offsets };

  bool enter(In in) {
    in_ = in;
    return true;
  }

  Entry& entry() { return header_.entries.back(); }

  [[noreturn]] void refuse(const std::string& what) { fail("{}: tensor {} {}", file_, shown(entry().name), what); }

  [[noreturn]] void unexpected(const char* found) {
    if (in_ == In::file) fail("{}: expected the header to be an object, found {}", file_, found);
    if (in_ == In::metadata) fail("{}: expected the metadata {} to be a string, found {}", file_, shown(key_), found);
    if (in_ == In::header) {
      if (key_ == kMetadataKey) fail("{}: expected the metadata to be an object, found {}", file_, found);
      fail("{}: expected the tensor {} to be an object, found {}", file_, shown(key_), found);
    }
    refuse(fmt::format("expects {} as {}, found {}", key_ == "dtype" ? "a string" : "an array of whole numbers", key_,
                       found));
  }

  const std::string& file_;
  Header& header_;
  In in_ = In::file;
  std::string key_;
  std::set<std::string> names_;   // of the header so far
  std::set<std::string> fields_;  // of the tensor so far
};

Header parse_header(const std::string& file, const std::string& text) {
  // The parser would skip a byte-order mark and take a zero byte for the end; neither is JSON.
  if (text.starts_with('\xef')) fail("{}: the header is not valid JSON at its byte 1", file);
  if (const auto zero = text.find('\0'); zero != std::string::npos)
    fail("{}: the header is not valid JSON at its byte {}", file, zero + 1);
  Header header;
  HeaderReader reader(file, header);
  Json::sax_parse(text, &reader);
  return header;
}

/// The checks of all numbers together: types and shapes give the byte counts, and tensors fill the data without gap or
/// overlap.
void check_layout(const std::string& file, std::vector<Entry>& entries, std::uint64_t data_bytes) {
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.offsets < b.offsets; });
  std::uint64_t place = 0;
  for (const Entry& entry : entries) {
    const std::uint64_t begin = entry.offsets[0], end = entry.offsets[1];
    const std::string what = fmt::format("{}: tensor {} ({} [{}], data_offsets [{}, {}])", file, shown(entry.name),
                                         type_of(entry.dtype)->first, fmt::join(entry.shape, ","), begin, end);
    auto bytes = static_cast<std::int64_t>(size_of(entry.dtype));
    bool overflow = false;
    for (const std::int64_t size : entry.shape) overflow |= __builtin_mul_overflow(bytes, size, &bytes);
    check(!overflow, "{}: its size overflows 63 bits", what);
    check(begin == place, "{}: expected it to begin at {}, where the one before ends", what, place);
    check(begin <= end && end - begin == static_cast<std::uint64_t>(bytes), "{}: expected {} bytes", what, bytes);
    place = end;
  }
  check(place == data_bytes, "{}: expected {} bytes of elements after the header, found {}", file, place, data_bytes);
}

/// Copies `bytes` bytes at `offset` of a file or of memory to `to`.
using ReadAt = std::function<void(std::uint64_t offset, std::uint64_t bytes, void* to)>;

StateFile read_state(const std::string& file, std::uint64_t file_bytes, const ReadAt& read_at) {
  check(file_bytes >= kLengthBytes, "{}: expected at least {} bytes, found {}", file, kLengthBytes, file_bytes);
  std::uint64_t header_bytes = 0;
  read_at(0, kLengthBytes, &header_bytes);
  check(header_bytes <= kMaxHeaderBytes, "{}: the header claims {} bytes, more than the {} allowed", file, header_bytes,
        kMaxHeaderBytes);
  check(header_bytes <= file_bytes - kLengthBytes, "{}: the header claims {} bytes, the file has {} after its length",
        file, header_bytes, file_bytes - kLengthBytes);
  std::string text(header_bytes, ' ');
  read_at(kLengthBytes, header_bytes, text.data());
  Header header = parse_header(file, text);
  const std::uint64_t data = kLengthBytes + header_bytes;
  check_layout(file, header.entries, file_bytes - data);

  StateFile state;
  state.metadata = std::move(header.metadata);
  for (Entry& entry : header.entries) {
    Tensor tensor = Tensor::empty(Shape(std::span<const std::int64_t>(entry.shape)), entry.dtype);
    if (tensor.bytes() > 0) read_at(data + entry.offsets[0], tensor.bytes(), tensor.raw());
    state.tensors.emplace(std::move(entry.name), std::move(tensor));
  }
  return state;
}

// --- writing ---

using Item = TensorMap::const_iterator;

std::string json_string(const std::string& path, const std::string& text) {
  if (!is_utf8(text)) fail("{}: the name or text {} is not valid UTF-8", path, shown(text));
  return Json(text).dump();
}

/// The header, its length in front, padded with spaces so that the elements start on a multiple of 8 bytes.
std::string make_header(const std::string& path, const std::vector<Item>& items, const Metadata& metadata) {
  std::vector<std::string> fields;
  if (!metadata.empty()) {
    std::vector<std::string> texts;
    for (const auto& [key, value] : metadata) texts.push_back(json_string(path, key) + ":" + json_string(path, value));
    fields.push_back(fmt::format("\"{}\":{{{}}}", kMetadataKey, fmt::join(texts, ",")));
  }
  std::size_t place = 0;
  for (const Item& item : items) {
    const auto& [name, tensor] = *item;
    fields.push_back(fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":{},\"data_offsets\":[{},{}]}}",
                                 json_string(path, name), type_of(tensor.dtype())->first, tensor.shape(), place,
                                 place + tensor.bytes()));
    place += tensor.bytes();
  }
  std::string header = fmt::format("{{{}}}", fmt::join(fields, ","));
  header.resize((header.size() + 7) / 8 * 8, ' ');
  check(header.size() <= kMaxHeaderBytes, "{}: names and metadata take {} bytes, more than the {} allowed", path,
        header.size(), kMaxHeaderBytes);
  std::string length(kLengthBytes, '\0');
  const std::uint64_t size = header.size();
  std::memcpy(length.data(), &size, kLengthBytes);
  return length + header;
}

}  // namespace

bool is_utf8(const std::string& text) {
  try {
    return !Json(text).dump().empty();
  } catch (const Json::exception&) {
    return false;
  }
}

StateFile read_state_bytes(std::span<const std::byte> bytes, const std::string& name) {
  return read_state(name, bytes.size(), [&](std::uint64_t offset, std::uint64_t count, void* to) {
    std::memcpy(to, bytes.data() + offset, count);
  });
}

StateFile read_state_file(const std::string& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));  // a pipe is refused, not waited for
  if (!file.ok()) fail("{}: cannot be opened: {}", path, system_error());
  struct stat status {};
  check(::fstat(file.get(), &status) == 0 && S_ISREG(status.st_mode), "{}: is not a regular file", path);
  return read_state(
      path, static_cast<std::uint64_t>(status.st_size), [&](std::uint64_t offset, std::uint64_t count, void* to) {
        for (std::uint64_t done = 0; done < count;) {
          const ssize_t got =
              ::pread(file.get(), static_cast<char*>(to) + done, count - done, static_cast<off_t>(offset + done));
          if (got < 0 && errno == EINTR) continue;
          if (got < 0) fail("{}: cannot be read at byte {}: {}", path, offset + done, system_error());
          check(got > 0, "{}: expected {} more bytes at byte {}, the file has become shorter", path, count - done,
                offset + done);
          done += static_cast<std::uint64_t>(got);
        }
      });
}

void write_state_file(const std::string& path, const TensorMap& tensors, const Metadata& metadata) {
  std::vector<Item> items;
  std::size_t bytes = 0;
  for (Item item = tensors.begin(); item != tensors.end(); ++item) {
    check(item->first != kMetadataKey && item->second.defined(), "{}: tensor {} has a reserved name or no elements",
          path, shown(item->first));
    items.push_back(item);
    bytes += item->second.bytes();
  }
  std::stable_sort(items.begin(), items.end(),
                   [](Item a, Item b) { return type_of(a->second.dtype()) < type_of(b->second.dtype()); });
  const std::string header = make_header(path, items, metadata);

  WholeFile file(path);
  bool ok = file.ok() && file.write(header.data(), header.size());
  for (auto item = items.begin(); ok && item != items.end(); ++item) {
    const Tensor tensor = (*item)->second.to(Device::cpu);
    ok = file.write(tensor.raw(), tensor.bytes());
  }
  ok = ok && file.publish();
  if (!ok) fail("{}: cannot be written ({} bytes needed): {}", path, header.size() + bytes, system_error());
}

}  // namespace dattn
