// Files that appear at once and whole.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace dattn {

/// A file descriptor that closes itself.
class Descriptor {
 public:
  explicit Descriptor(int descriptor) : descriptor_(descriptor) {}
  ~Descriptor();
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return descriptor_; }
  bool ok() const { return descriptor_ >= 0; }
  /// Whether closing reported no late write error.
  bool close();

 private:
  int descriptor_;
};

/// The text of the error that the last system call left.
std::string system_error();

/// A new file `path.partial-*` beside `path`, which vanishes with this object unless it is moved to `path` first. Calls
/// return false where the system refuses, and leave its reason to system_error().
class WholeFile {
 public:
  explicit WholeFile(const std::string& path);
  ~WholeFile();
  WholeFile(const WholeFile&) = delete;
  WholeFile& operator=(const WholeFile&) = delete;

  bool ok() const { return descriptor_.ok(); }
  bool write(const void* bytes, std::size_t count);
  /// Brings the bytes to the disk, then the name: after a crash `path` holds either the old file or all of the new one.
  bool publish();

 private:
  int create();

  std::string path_, name_;
  Descriptor descriptor_;
  bool closed_ = false;  // closed, not yet renamed
};

/// Writes a text at once and whole. Error with the path, the bytes needed and the reason; what was there still is then.
void write_whole_text(const std::string& path, const std::string& text);

/// Removes the partial files that killed writers of `path` left beside it. For a program that is the only writer of
/// `path`.
void remove_partial_files(const std::string& path);

}  // namespace dattn
