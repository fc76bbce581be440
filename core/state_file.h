// State files: named tensors and text in the safetensors format, exchangeable with Python's `safetensors` package.
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>

#include "core/tensor.h"

namespace dattn {

using TensorMap = std::map<std::string, Tensor>;
using Metadata = std::map<std::string, std::string>;

/// A file's contents. The file is 8 bytes of header length, a JSON header and the elements, little-endian:
/// https://huggingface.co/docs/safetensors
struct StateFile {
  TensorMap tensors;
  Metadata metadata;
};

/// Whether a text is valid UTF-8, as all names and texts of state files are.
bool is_utf8(const std::string& text);
/// A string of a file for a message: in quotes, escaped to ASCII, cut where it is long.
std::string shown(const std::string& text);

/// Reads a whole file. Error, with the path, the place and what was expected and found, wherever Python's package
/// refuses it; also where a name stands twice, a field is unknown, a tensor has more than Shape::kMaxRank dimensions,
/// or its type is none of Dtype's (F32, F64, BF16, I64, I32, U8). Allocates no more than the file holds, whatever its
/// header says.
StateFile read_state_file(const std::string& path);

/// The same from memory; `name` stands for the path in errors.
StateFile read_state_bytes(std::span<const std::byte> bytes, const std::string& name);

/// Writes a file, byte for byte as Python's package does: tensors by falling alignment of their type, then by name. The
/// file appears at once and whole: it is written beside `path` as `path.partial-*`, synced and renamed. On Error (no
/// space, no permission, a name that is not UTF-8) what was at `path` is still there and the partial file is gone.
void write_state_file(const std::string& path, const TensorMap& tensors, const Metadata& metadata = {});

}  // namespace dattn
