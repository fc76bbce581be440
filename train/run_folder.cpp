// The files of a run.
#include "train/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "core/error.h"
#include "train/platform.h"

namespace dattn {

namespace fs = std::filesystem;

namespace {

constexpr const char* kHeader =
    "epoch,step,seconds,lr,train_loss,train_accuracy,test_loss,test_accuracy,test_accuracy_tta,images_per_second";
constexpr const char* kHeldOutHeader = ",held_out_loss,held_out_accuracy";  // with --holdout

// Whether a file holds more than the header of metrics.
bool has_rows(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  return std::getline(file, line) && (!line.starts_with(kHeader) || std::getline(file, line));
}

// Refuses a folder with a checkpoint, or with a run's metrics. Of best.safetensors alone no run goes on: it was killed
// before its first save.
void refuse_run(const std::string& folder, const std::string& last, const std::string& best,
                const std::string& metrics) {
  std::error_code error;
  check(!fs::exists(last, error),
        "{}: holds a run already ({})\nhint: --resume goes on with it; or choose another --out", folder, last);
  check(!fs::exists(best, error), "{}: holds a run already ({})\nhint: choose another --out, or delete that file",
        folder, best);
  check(!fs::is_regular_file(metrics, error) || !has_rows(metrics),
        "{}: holds the metrics of a run ({})\nhint: choose another --out, or delete that file", folder, metrics);
}

// The first of runs/1, runs/2, ... that this program, and no other that starts beside it, has made.
std::string new_numbered_folder(std::error_code& error) {
  fs::create_directories("runs", error);
  for (int i = 1; !error; ++i) {
    const std::string path = fmt::format("runs/{}", i);
    if (fs::create_directory(path, error)) return path;
    if (error == std::errc::file_exists) error.clear();  // a file of that name
  }
  return "runs";
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
  if (r.held_out) {
    to["held_out_loss"] = r.held_out->loss;
    to["held_out_accuracy"] = r.held_out->accuracy;
  }
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
  r.held_out.reset();
  if (from.contains("held_out_accuracy")) r.held_out = {from.at("held_out_loss"), from.at("held_out_accuracy")};
  r.test.reset();
  if (from.contains("test_accuracy"))
    r.test = {from.at("test_loss"), from.at("test_accuracy"), from.at("test_accuracy_tta")};
}

RunFolder::RunFolder(const TrainOptions& options) : path_(options.out), resume_(options.resume) {
  std::error_code error;
  const bool there = !path_.empty() && fs::exists(last(), error);
  check(!error || error == std::errc::not_a_directory, "{}: cannot be looked into ({})", path_, error.message());
  if (resume_) {
    check(there, "resume: nothing to resume, {} is not there\nhint: leave --resume out to begin a run", last());
    lock();
  } else if (!path_.empty()) {
    refuse_run(path_, last(), best(), metrics());
  }
}

void RunFolder::make() {
  std::error_code error;
  if (path_.empty()) {
    path_ = new_numbered_folder(error);
  } else {
    fs::create_directories(path_, error);
  }
  check(!error && fs::is_directory(path_), "{}: the folder cannot be made ({})", path_,
        error ? error.message() : "it is a file");
  if (!lock_) lock();
  if (!resume_)
    refuse_run(path_, last(), best(), metrics());  // again: others may have come since the constructor looked
}

void RunFolder::lock() {
  lock_ = std::make_unique<Descriptor>(::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const bool taken = lock_->ok() && ::flock(lock_->get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  check(!taken, "{}: another train writes into this folder\nhint: wait for its end, or choose another --out", path_);
  for (const std::string& file : {last(), best(), metrics(), run()}) remove_partial_files(file);
}

void RunFolder::expect_in_place() const {
  struct stat locked {
  }, there{};
  if (!lock_ || !lock_->ok() || ::fstat(lock_->get(), &locked) != 0) return;  // where the file system has no locks
  const bool same =
      ::stat(path_.c_str(), &there) == 0 && there.st_dev == locked.st_dev && there.st_ino == locked.st_ino;
  check(same, "{}: the run's folder was moved or replaced while it ran, so nothing is saved", path_);
}

void RunFolder::write_metrics(const std::vector<MetricsRow>& rows) const {
  const bool held_out = std::any_of(rows.begin(), rows.end(), [](const MetricsRow& r) { return r.held_out; });
  std::string text = fmt::format("{}{}\n", kHeader, held_out ? kHeldOutHeader : "");
  for (const MetricsRow& r : rows) {
    const std::string test =
        r.test ? fmt::format("{:.6f},{:.6f},{:.6f}", r.test->loss, r.test->accuracy, r.test->accuracy_tta) : ",,";
    text += fmt::format("{},{},{:.3f},{:.6g},{:.6f},{:.6f},{},{:.1f}", r.epoch, r.step, r.seconds, r.lr, r.train_loss,
                        r.train_accuracy, test, r.images_per_second);
    if (r.held_out) {
      text += fmt::format(",{:.6f},{:.6f}", r.held_out->loss, r.held_out->accuracy);
    } else if (held_out) {  // of a run that kept none aside then
      text += ",,";
    }
    text += "\n";
  }
  put([&] { write_whole_text(metrics(), text); });
}

void RunFolder::write_run(const nlohmann::json& options, const nlohmann::json& facts) const {
  nlohmann::json all = {
      {"options", options}, {"version", version()}, {"compiler", compiler_name()}, {"processor", processor_name()}};
  all.update(facts);
  write_whole_text(run(), all.dump(2) + "\n");
}

}  // namespace dattn
