// Reading whole files, with errors that name the path and the bytes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>

namespace dattn {

/// Bytes in a regular file; Error starting with `who` where it is missing or something else than a file.
std::int64_t file_length(const char* who, const std::filesystem::path& path);

/// Fills `bytes` from the start of the file; Error where it ends before.
void read_file(const char* who, const std::filesystem::path& path, std::span<std::uint8_t> bytes);

}  // namespace dattn
