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

void to_json(nlohmann::json& to, const MetricsRow& r) {
  to = {{"epoch", r.epoch},
        {"step", r.step},
        {"seconds", r.seconds},
        {"lr", r.lr},
        {"train_loss", r.train_loss},
        {"train_accuracy", r.train_accuracy},
        {"images_per_second", r.images_per_second}};
  if (r.test) {
    to["test_loss"] = r.test->loss;
    to["test_accuracy"] = r.test->accuracy;
    to["test_accuracy_tta"] = r.test->accuracy_tta;
  }
}

void from_json(const nlohmann::json& from, MetricsRow& r) {
  from.at("epoch").get_to(r.epoch);
  from.at("step").get_to(r.step);
  from.at("seconds").get_to(r.seconds);
  from.at("lr").get_to(r.lr);
  from.at("train_loss").get_to(r.train_loss);
  from.at("train_accuracy").get_to(r.train_accuracy);
  from.at("images_per_second").get_to(r.images_per_second);
  r.test.reset();
  if (from.contains("test_accuracy"))
    r.test = {from.at("test_loss"), from.at("test_accuracy"), from.at("test_accuracy_tta")};
}

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
    const std::string test =
        r.test ? fmt::format("{:.6f},{:.6f},{:.6f}", r.test->loss, r.test->accuracy, r.test->accuracy_tta) : ",,";
    text += fmt::format("{},{},{:.3f},{:.6g},{:.6f},{:.6f},{},{:.1f}\n", r.epoch, r.step, r.seconds, r.lr, r.train_loss,
                        r.train_accuracy, test, r.images_per_second);
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
