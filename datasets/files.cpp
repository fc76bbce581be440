// Reading whole files.
#include "datasets/files.h"

#include <cerrno>
#include <cstring>
#include <fstream>

#include "core/error.h"

namespace dattn {

std::int64_t file_length(const char* who, const std::filesystem::path& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  check(std::filesystem::exists(status), "{}: {}: expected a file, found none", who, path.string());
  check(std::filesystem::is_regular_file(status), "{}: {}: expected a file, found something else", who, path.string());
  const auto length = std::filesystem::file_size(path, error);
  check(!error, "{}: {}: {}", who, path.string(), error.message());
  return static_cast<std::int64_t>(length);
}

void read_file(const char* who, const std::filesystem::path& path, std::span<std::uint8_t> bytes) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  check(file.is_open(), "{}: {}: cannot be opened: {}", who, path.string(), std::strerror(errno));
  file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  check(file.gcount() == static_cast<std::streamsize>(bytes.size()), "{}: {}: expected {} bytes, could read {}", who,
        path.string(), bytes.size(), file.gcount());
}

}  // namespace dattn
