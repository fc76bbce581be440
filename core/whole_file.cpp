// Files that appear at once and whole: written beside their name, synced, renamed.
#include "core/whole_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "core/error.h"

namespace dattn {

namespace {

std::string partial_prefix(const std::string& path) { return path + ".partial-"; }

std::filesystem::path folder_of(const std::string& path) {
  const auto folder = std::filesystem::path(path).parent_path();
  return folder.empty() ? "." : folder;
}

}  // namespace

std::string system_error() { return std::strerror(errno); }

Descriptor::~Descriptor() {
  if (descriptor_ >= 0) ::close(descriptor_);
}
bool Descriptor::close() { return ::close(std::exchange(descriptor_, -1)) == 0; }

WholeFile::WholeFile(const std::string& path) : path_(path), descriptor_(create()) {}
WholeFile::~WholeFile() {
  if (descriptor_.ok() || closed_) ::unlink(name_.c_str());
}

int WholeFile::create() {
  static std::atomic<unsigned> count{0};
  int descriptor = -1;
  do {
    name_ = fmt::format("{}{}-{}", partial_prefix(path_), ::getpid(), count++);
    descriptor = ::open(name_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  } while (descriptor < 0 && errno == EEXIST);
  return descriptor;
}

bool WholeFile::write(const void* bytes, std::size_t count) {
  auto from = static_cast<const char*>(bytes);
  while (count > 0) {
    const ssize_t written = ::write(descriptor_.get(), from, count);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return false;
    from += written;
    count -= static_cast<std::size_t>(written);
  }
  return true;
}

bool WholeFile::publish() {
  if (::fsync(descriptor_.get()) != 0) return false;
  closed_ = true;
  if (!descriptor_.close() || ::rename(name_.c_str(), path_.c_str()) != 0) return false;
  closed_ = false;
  // From here on the new file is there, whatever becomes of the sync: some file systems sync no folders, and some
  // folders may be written but not read.
  const Descriptor folder(::open(folder_of(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.ok()) ::fsync(folder.get());
  return true;
}

void write_whole_text(const std::string& path, const std::string& text) {
  WholeFile file(path);
  const bool ok = file.ok() && file.write(text.data(), text.size()) && file.publish();
  if (!ok) fail("{}: cannot be written ({} bytes needed): {}", path, text.size(), system_error());
}

void remove_partial_files(const std::string& path) {
  const std::string prefix = std::filesystem::path(partial_prefix(path)).filename();
  std::error_code ignored;  // a folder that is not there holds no partial files
  for (const auto& entry : std::filesystem::directory_iterator(folder_of(path), ignored)) {
    if (entry.path().filename().string().starts_with(prefix)) std::filesystem::remove(entry.path(), ignored);
  }
}

}  // namespace dattn
