// The files of a run.
#include "train/run_folder.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "train/report.h"

namespace dattn {

namespace fs = std::filesystem;

namespace {

constexpr const char* kHeader =
    "epoch,step,seconds,lr,train_loss,train_accuracy,test_loss,test_accuracy,test_accuracy_tta,images_per_second\n";

// Writes beside `path` and renames, so that a reader or a kill never meets half a file.
void write_text(const std::string& path, const std::string& text) {
  const std::string partial = path + ".partial";
  std::ofstream file(partial, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  if (!file) {
    const std::string reason = std::strerror(errno);
    std::error_code ignored;
    fs::remove(partial, ignored);
    fail("{}: cannot write {} bytes ({})\nhint: free some space, or choose another --out", path, text.size(), reason);
  }
  std::error_code error;
  fs::rename(partial, path, error);
  check(!error, "{}: cannot be replaced ({})", path, error.message());
}

std::string first_free_folder() {
  for (int i = 1;; ++i) {
    const std::string path = fmt::format("runs/{}", i);
    if (!fs::exists(path)) return path;
  }
}

}  // namespace

RunFolder::RunFolder(const TrainOptions& options) : path_(options.out.empty() ? first_free_folder() : options.out) {
  const bool there = fs::exists(last());
  check(!options.resume || there, "resume: nothing to resume, {} is not there\nhint: leave --resume out to begin a run",
        last());
  check(options.resume || !there,
        "{}: holds a run already ({})\nhint: --resume goes on with it; or choose another --out", path_, last());
  std::error_code error;
  fs::create_directories(path_, error);
  check(!error && fs::is_directory(path_), "{}: the folder cannot be made ({})", path_,
        error ? error.message() : "it is a file");
}

void RunFolder::write_metrics(const std::vector<MetricsRow>& rows) const {
  std::string text = kHeader;
  for (const MetricsRow& r : rows) {
    text += fmt::format("{},{},{:.3f},{:.6g},{:.6f},{:.6f},{:.6f},{:.6f},{:.6f},{:.1f}\n", r.epoch, r.step, r.seconds,
                        r.lr, r.train_loss, r.train_accuracy, r.test_loss, r.test_accuracy, r.test_accuracy_tta,
                        r.images_per_second);
  }
  write_text(path_ + "/metrics.csv", text);
}

void RunFolder::write_run(const nlohmann::json& options, const nlohmann::json& facts) const {
  nlohmann::json run = {
      {"options", options}, {"version", version()}, {"compiler", compiler_name()}, {"processor", processor_name()}};
  run.update(facts);
  write_text(path_ + "/run.json", run.dump(2) + "\n");
}

}  // namespace dattn
