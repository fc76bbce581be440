// Download with libcurl, MD5 with OpenSSL, unpacking with libarchive; everything is made beside its place and renamed.
#include "datasets/download.h"

#include <archive.h>
#include <archive_entry.h>
#include <curl/curl.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/file.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

#include "core/error.h"
#include "core/whole_file.h"

namespace dattn {

namespace fs = std::filesystem;

const Archive kCifar10{"cifar10", "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                       "c32a1d4ab5d03f1284b67883e8d87530", "cifar-10-batches-bin"};

namespace {

using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;
using Report = std::function<void(const std::string&)>;

File open_file(const fs::path& path, const char* mode) {
  File file(std::fopen(path.c_str(), mode), std::fclose);
  check(file != nullptr, "{}: cannot be opened: {}", path.string(), system_error());
  return file;
}

/// Holds the only lock on a file while it lives; calls `before_waiting` where another process has it.
class FileLock {
 public:
  FileLock(const fs::path& path, const std::function<void()>& before_waiting)
      : file_(::open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0644)) {
    bool held = file_.ok() && ::flock(file_.get(), LOCK_EX | LOCK_NB) == 0;
    if (!held && errno == EWOULDBLOCK) {
      before_waiting();
      held = ::flock(file_.get(), LOCK_EX) == 0;
    }
    check(held, "{}: cannot be locked: {}", path.string(), system_error());
  }

 private:
  Descriptor file_;
};

std::string md5_of(const fs::path& path) {
  const std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  check(context && EVP_DigestInit_ex(context.get(), EVP_md5(), nullptr) == 1,
        "{} cannot be checked: this OpenSSL has no MD5\nhint: unpack the archive, and give its folder by --data",
        path.string());
  const File file = open_file(path, "rb");
  std::vector<unsigned char> block(1 << 16);
  while (const std::size_t n = std::fread(block.data(), 1, block.size(), file.get())) {
    EVP_DigestUpdate(context.get(), block.data(), n);
  }
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest;
  unsigned int bytes = 0;
  EVP_DigestFinal_ex(context.get(), digest.data(), &bytes);
  std::string text;
  for (unsigned int i = 0; i < bytes; ++i) text += fmt::format("{:02x}", digest[i]);
  return text;
}

/// Reports every tenth of a download.
struct Progress {
  const Report& report;
  int tenths = 0;

  static int update(void* self, curl_off_t total, curl_off_t now, curl_off_t, curl_off_t) {
    auto& progress = *static_cast<Progress*>(self);
    const int tenths = total > 0 ? static_cast<int>(10 * now / total) : 0;
    if (progress.report && tenths > progress.tenths)
      progress.report(fmt::format("{} % of {} MB", 10 * tenths, total / 1000000));
    progress.tenths = std::max(progress.tenths, tenths);
    return 0;
  }
};

bool means_no_network(CURLcode code) {
  return code == CURLE_COULDNT_RESOLVE_HOST || code == CURLE_COULDNT_RESOLVE_PROXY || code == CURLE_COULDNT_CONNECT ||
         code == CURLE_OPERATION_TIMEDOUT;
}

void download(const Archive& archive, const fs::path& by_hand, const fs::path& to, const Report& report) {
  if (report) report(fmt::format("{}: downloading {}", archive.name, archive.url));
  const std::unique_ptr<CURL, void (*)(CURL*)> curl(curl_easy_init(), curl_easy_cleanup);
  check(curl != nullptr, "{}: libcurl does not start", archive.name);
  const File file = open_file(to, "wb");
  std::array<char, CURL_ERROR_SIZE> message{};
  Progress progress{report};
  curl_easy_setopt(curl.get(), CURLOPT_URL, archive.url.c_str());
  curl_easy_setopt(curl.get(), CURLOPT_WRITEDATA, file.get());
  curl_easy_setopt(curl.get(), CURLOPT_ERRORBUFFER, message.data());
  curl_easy_setopt(curl.get(), CURLOPT_FAILONERROR, 1L);
  curl_easy_setopt(curl.get(), CURLOPT_FOLLOWLOCATION, 1L);
  curl_easy_setopt(curl.get(), CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl.get(), CURLOPT_CONNECTTIMEOUT, 30L);
  curl_easy_setopt(curl.get(), CURLOPT_LOW_SPEED_LIMIT, 1000L);  // bytes a second ...
  curl_easy_setopt(curl.get(), CURLOPT_LOW_SPEED_TIME, 60L);     // ... for so many seconds end it
  curl_easy_setopt(curl.get(), CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(curl.get(), CURLOPT_XFERINFOFUNCTION, Progress::update);
  curl_easy_setopt(curl.get(), CURLOPT_XFERINFODATA, &progress);
  const CURLcode code = curl_easy_perform(curl.get());
  check(code == CURLE_OK,
        "{}: {}: {} could not be downloaded: {}\nhint: fetch it elsewhere, put it at {} and run again; or unpack it "
        "and give "
        "the folder by --data",
        archive.name, means_no_network(code) ? "no network" : "download failed", archive.url,
        message[0] ? message.data() : curl_easy_strerror(code), by_hand.string());
  check(std::fflush(file.get()) == 0, "{}: {}: {}", archive.name, to.string(), system_error());
}

/// The path of an entry inside `root`: Error unless it is a plain file or folder in the archive's own folder.
fs::path entry_path(const Archive& archive, archive_entry* entry, const fs::path& root) {
  const char* name = archive_entry_pathname(entry);
  check(name != nullptr, "{}: the archive holds an entry without a readable name", archive.name);
  const fs::path path = fs::path(name).lexically_normal();
  const bool inside = path.is_relative() && !path.empty() && *path.begin() == archive.folder;
  const auto type = archive_entry_filetype(entry);
  check(inside && (type == AE_IFREG || type == AE_IFDIR) && archive_entry_hardlink(entry) == nullptr,
        "{}: the archive may hold plain files and folders inside {} only, found '{}'", archive.name, archive.folder,
        name);
  return root / path;
}

void unpack(const Archive& archive, const fs::path& file, const fs::path& root) {
  constexpr std::int64_t kMostBytes = std::int64_t{1} << 30;
  const std::unique_ptr<struct archive, int (*)(struct archive*)> tar(archive_read_new(), archive_read_free);
  archive_read_support_filter_gzip(tar.get());
  archive_read_support_format_tar(tar.get());
  const auto expect = [&](bool ok) {
    check(ok, "{}: {}: cannot be unpacked: {}", archive.name, file.string(),
          archive_error_string(tar.get()) ? archive_error_string(tar.get()) : "not a .tar.gz");
  };
  expect(archive_read_open_filename(tar.get(), file.c_str(), 1 << 16) == ARCHIVE_OK);
  archive_entry* entry = nullptr;
  std::vector<char> block(1 << 16);
  std::int64_t total = 0;
  int status;
  while ((status = archive_read_next_header(tar.get(), &entry)) == ARCHIVE_OK) {
    const fs::path path = entry_path(archive, entry, root);
    if (archive_entry_filetype(entry) == AE_IFDIR) {
      fs::create_directories(path);
      continue;
    }
    fs::create_directories(path.parent_path());
    WholeFile out(path);  // on the disk before the folder gets the name that is trusted
    bool written = out.ok();
    la_ssize_t n = 0;
    while (written && (n = archive_read_data(tar.get(), block.data(), block.size())) > 0) {
      total += n;
      check(total <= kMostBytes, "{}: the archive unpacks to more than {} bytes", archive.name, kMostBytes);
      written = out.write(block.data(), static_cast<std::size_t>(n));
    }
    expect(n >= 0);
    check(written && out.publish(), "{}: {}: cannot be written: {}", archive.name, path.string(), system_error());
  }
  expect(status == ARCHIVE_EOF);
}

}  // namespace

fs::path cache_folder() {
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache && *cache) return fs::path(cache) / "dattn";
  const char* home = std::getenv("HOME");
  check(home && *home, "cache: expected XDG_CACHE_HOME or HOME in the environment, found neither");
  return fs::path(home) / ".cache" / "dattn";
}

fs::path fetch(const Archive& archive, const fs::path& cache, const Report& report) {
  const fs::path folder = cache / archive.folder;
  if (fs::is_directory(folder)) return folder;
  try {
    fs::create_directories(cache);
    const fs::path lock_file = cache / (archive.folder + ".lock");
    const FileLock lock(lock_file, [&] {
      if (report) report(fmt::format("{}: waiting for the process that holds {}", archive.name, lock_file.string()));
    });
    if (fs::is_directory(folder)) return folder;  // another process was faster

    const fs::path by_hand = cache / fs::path(archive.url).filename();
    const fs::path part = by_hand.string() + ".part", unpacked = folder.string() + ".part";
    const bool given = fs::exists(by_hand);
    if (!given) download(archive, by_hand, part, report);
    const fs::path file = given ? by_hand : part;
    const std::string md5 = md5_of(file);
    check(md5 == archive.md5, "{}: {}: expected MD5 {}, found {} ({} bytes)\nhint: delete it and run again",
          archive.name, file.string(), archive.md5, md5, fs::file_size(file));
    if (report) report(fmt::format("{}: unpacking into {}", archive.name, folder.string()));
    fs::remove_all(unpacked);  // of a run that was killed
    unpack(archive, file, unpacked);
    check(fs::is_directory(unpacked / archive.folder), "{}: the archive holds no folder {}", archive.name,
          archive.folder);
    fs::rename(unpacked / archive.folder, folder);
    fs::remove_all(unpacked);
    fs::remove(part);
  } catch (const fs::filesystem_error& error) {
    fail("{}: {}", archive.name, error.what());
  }
  return folder;
}

}  // namespace dattn
