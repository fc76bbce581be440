// Fetching a published archive once: downloaded, its MD5 checked, unpacked into a cache folder.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

namespace dattn {

struct Archive {
  std::string name;    ///< for messages
  std::string url;     ///< of a .tar.gz
  std::string md5;     ///< in hexadecimal
  std::string folder;  ///< the folder it unpacks to
};

/// The official CIFAR-10, binary version.
extern const Archive kCifar10;

/// $XDG_CACHE_HOME/dattn, or ~/.cache/dattn.
std::filesystem::path cache_folder();

/// The archive's unpacked folder inside `cache`, which is filled first where it is not there: from
/// `cache`/ARCHIVE.tar.gz where someone has put it there, else from its URL. A kill at any moment leaves no half of it
/// behind under the final name; two processes do not disturb each other. Throws Error when there is no network, when
/// the MD5 differs, or when the archive holds something else than plain files and folders inside its own folder.
std::filesystem::path fetch(const Archive& archive, const std::filesystem::path& cache,
                            const std::function<void(const std::string&)>& report = {});

}  // namespace dattn
