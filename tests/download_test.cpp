// The download of a small archive from a file:// address: checked, unpacked, kept, and refused where it is not what it
// should be.
#include "datasets/download.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <sys/file.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <thread>

#include "core/error.h"
#include "core/whole_file.h"
#include "data_files.h"
#include "datasets/cifar.h"
#include "error_text.h"

namespace dattn::test {

namespace {

namespace fs = std::filesystem;

struct Entry {
  std::string name;
  ByteList bytes;
  std::string link{};  ///< makes it a symbolic link
};

ByteList tar_gz(const std::vector<Entry>& entries) {
  ByteList file(1 << 20);
  std::size_t used = 0;
  const std::unique_ptr<struct archive, int (*)(struct archive*)> tar(archive_write_new(), archive_write_free);
  archive_write_add_filter_gzip(tar.get());
  archive_write_set_format_ustar(tar.get());
  archive_write_open_memory(tar.get(), file.data(), file.size(), &used);
  for (const auto& entry : entries) {
    const std::unique_ptr<archive_entry, void (*)(archive_entry*)> head(archive_entry_new(), archive_entry_free);
    archive_entry_set_pathname(head.get(), entry.name.c_str());
    archive_entry_set_perm(head.get(), 0644);
    archive_entry_set_filetype(head.get(), entry.link.empty() ? AE_IFREG : AE_IFLNK);
    if (!entry.link.empty()) archive_entry_set_symlink(head.get(), entry.link.c_str());
    archive_entry_set_size(head.get(), static_cast<la_int64_t>(entry.bytes.size()));
    archive_write_header(tar.get(), head.get());
    archive_write_data(tar.get(), entry.bytes.data(), entry.bytes.size());
  }
  archive_write_close(tar.get());
  file.resize(used);
  return file;
}

std::string md5_of(const ByteList& bytes) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  EVP_Digest(bytes.data(), bytes.size(), digest, &length, EVP_md5(), nullptr);
  std::string text;
  for (unsigned int i = 0; i < length; ++i) text += fmt::format("{:02x}", digest[i]);
  return text;
}

std::vector<Entry> small_cifar() {
  std::vector<Entry> entries{{"cifar-10-batches-bin/test_batch.bin", cifar_records(1, 1, 10)}};
  for (int i = 1; i <= 5; ++i) {
    entries.push_back({fmt::format("cifar-10-batches-bin/data_batch_{}.bin", i), cifar_records(2, 1, 10)});
  }
  return entries;
}

/// Puts the archive at from/small.tar.gz and describes it.
Archive publish(const DataFolder& folder, const std::vector<Entry>& entries) {
  const ByteList bytes = tar_gz(entries);
  folder.write("from/small.tar.gz", bytes);
  return {"small", "file://" + folder / "from/small.tar.gz", md5_of(bytes), "cifar-10-batches-bin"};
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  std::ranges::sort(names);
  return names;
}

TEST(Download, FetchesOnceAndLeavesNothingElse) {
  DataFolder folder;
  const Archive archive = publish(folder, small_cifar());
  std::vector<std::string> told;
  const fs::path path = fetch(archive, folder / "cache", [&](const std::string& text) { told.push_back(text); });
  EXPECT_EQ(load_cifar(CifarKind::cifar10, path).train.count(), 10);
  EXPECT_EQ(names_in(folder / "cache"),
            (std::vector<std::string>{"cifar-10-batches-bin", "cifar-10-batches-bin.lock"}));
  ASSERT_GE(told.size(), 2u);
  EXPECT_EQ(told.front(), "small: downloading " + archive.url);
  fs::remove_all(folder / "from");  // not needed any more
  EXPECT_EQ(fetch(archive, folder / "cache"), path);
}

TEST(Download, GoesOnAfterARunThatWasKilled) {
  DataFolder folder;
  const Archive archive = publish(folder, small_cifar());
  folder.write("cache/small.tar.gz.part", {1, 2, 3});
  folder.write("cache/cifar-10-batches-bin.part/cifar-10-batches-bin/data_batch_1.bin", {1, 2, 3});
  EXPECT_EQ(load_cifar(CifarKind::cifar10, fetch(archive, folder / "cache")).train.count(), 10);
  EXPECT_EQ(names_in(folder / "cache").size(), 2u);
}

TEST(Download, TakesAnArchivePutThereByHand) {
  DataFolder folder;
  Archive archive = publish(folder, small_cifar());
  folder.write("cache/small.tar.gz", folder.read("from/small.tar.gz"));
  archive.url = "file:///nowhere/small.tar.gz";
  EXPECT_EQ(load_cifar(CifarKind::cifar10, fetch(archive, folder / "cache")).train.count(), 10);
  EXPECT_TRUE(fs::exists(folder / "cache/small.tar.gz"));  // it is not ours to remove
}

TEST(Download, SeveralAtOnceDoNotDisturbEachOther) {
  DataFolder folder;
  const Archive archive = publish(folder, small_cifar());
  std::vector<std::thread> threads;
  std::vector<std::string> errors(4);
  for (auto& error : errors)
    threads.emplace_back([&] { error = error_text([&] { fetch(archive, folder / "cache"); }); });
  for (auto& thread : threads) thread.join();
  for (const auto& error : errors) EXPECT_EQ(error, "no error");
  EXPECT_EQ(load_cifar(CifarKind::cifar10, folder / "cache/cifar-10-batches-bin").train.count(), 10);
}

TEST(Download, SaysThatItWaitsForAnother) {
  DataFolder folder;
  const Archive archive = publish(folder, small_cifar());
  const std::string lock = folder / "cache/cifar-10-batches-bin.lock";
  folder.write("cache/cifar-10-batches-bin.lock", {});
  Descriptor held(::open(lock.c_str(), O_RDWR));
  ASSERT_EQ(::flock(held.get(), LOCK_EX), 0);
  std::vector<std::string> told;
  fetch(archive, folder / "cache", [&](const std::string& text) {
    told.push_back(text);
    ::flock(held.get(), LOCK_UN);
  });
  EXPECT_EQ(told.front(), "small: waiting for the process that holds " + lock);
}

TEST(Download, SaysWhatToDoWhereItFails) {
  DataFolder folder;
  Archive archive{"small", "http://host.invalid/small.tar.gz", "", "cifar-10-batches-bin"};
  const std::string hint = "\nhint: fetch it elsewhere, put it at " + (folder / "cache/small.tar.gz") +
                           " and run again; or unpack it and give the folder by --data";
  for (const std::string url : {"http://host.invalid/small.tar.gz", "http://127.0.0.1:9/small.tar.gz"}) {
    archive.url = url;
    const std::string text = error_text([&] { fetch(archive, folder / "cache"); });
    EXPECT_TRUE(contains(text, "small: no network: " + url + " could not be downloaded: ")) << text;
    EXPECT_TRUE(contains(text, hint));
  }
  archive.url = "file:///nowhere/small.tar.gz";
  const std::string text = error_text([&] { fetch(archive, folder / "cache"); });
  EXPECT_TRUE(contains(text, "small: download failed: file:///nowhere/small.tar.gz could not be downloaded: "));
  EXPECT_FALSE(fs::exists(folder / "cache/cifar-10-batches-bin"));
}

TEST(Download, RefusesAnotherArchive) {
  DataFolder folder;
  Archive archive = publish(folder, small_cifar());
  const std::string found = archive.md5;
  archive.md5 = "c32a1d4ab5d03f1284b67883e8d87530";
  const std::string text = error_text([&] { fetch(archive, folder / "cache"); });
  EXPECT_TRUE(contains(text, ": expected MD5 c32a1d4ab5d03f1284b67883e8d87530, found " + found + " (")) << text;
  EXPECT_FALSE(fs::exists(folder / "cache/cifar-10-batches-bin"));
}

TEST(Download, UnpacksNothingOutsideItsFolder) {
  for (const Entry& bad :
       {Entry{"../outside", {1}}, Entry{"cifar-10-batches-bin/../../outside", {1}}, Entry{"/tmp/outside", {1}},
        Entry{"elsewhere/file", {1}}, Entry{"cifar-10-batches-bin/link", {}, "/etc"}}) {
    DataFolder folder;
    auto entries = small_cifar();
    entries.insert(entries.begin() + 1, bad);
    const Archive archive = publish(folder, entries);
    EXPECT_EQ(error_text([&] { fetch(archive, folder / "cache"); }),
              "small: the archive may hold plain files and folders inside cifar-10-batches-bin only, found '" +
                  bad.name + "'");
    EXPECT_FALSE(fs::exists(folder / "cache/cifar-10-batches-bin"));
    EXPECT_FALSE(fs::exists(folder / "outside"));
  }
}

TEST(Download, ArchivesThatAreNoneOrCutShort) {
  DataFolder folder;
  ByteList bytes = tar_gz(small_cifar());
  const auto try_bytes = [&](const ByteList& content) {
    folder.write("from/small.tar.gz", content);
    const Archive archive{"small", "file://" + folder / "from/small.tar.gz", md5_of(content), "cifar-10-batches-bin"};
    return error_text([&] { fetch(archive, folder / "cache"); });
  };
  EXPECT_TRUE(contains(try_bytes({'n', 'o', 't', ' ', 'a', ' ', 't', 'a', 'r'}), "cannot be unpacked: "));
  EXPECT_TRUE(
      contains(try_bytes(ByteList(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(bytes.size() / 2))),
               "cannot be unpacked: "));
  EXPECT_TRUE(contains(try_bytes(tar_gz({})), "the archive holds no folder cifar-10-batches-bin"));
  EXPECT_FALSE(fs::exists(folder / "cache/cifar-10-batches-bin"));
}

TEST(Download, TheCacheFollowsTheEnvironment) {
  const char* home = std::getenv("HOME");
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const std::string old_home = home ? home : "", old_cache = cache ? cache : "";
  ::setenv("HOME", "/somewhere", 1);
  ::unsetenv("XDG_CACHE_HOME");
  EXPECT_EQ(cache_folder(), "/somewhere/.cache/dattn");
  ::setenv("XDG_CACHE_HOME", "/fast", 1);
  EXPECT_EQ(cache_folder(), "/fast/dattn");
  home ? ::setenv("HOME", old_home.c_str(), 1) : ::unsetenv("HOME");
  cache ? ::setenv("XDG_CACHE_HOME", old_cache.c_str(), 1) : ::unsetenv("XDG_CACHE_HOME");
}

}  // namespace

}  // namespace dattn::test
