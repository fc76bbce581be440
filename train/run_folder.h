// The files of a run in its folder: last.safetensors, best.safetensors, metrics.csv, run.json.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/whole_file.h"
#include "train/options.h"

namespace dattn {

/// What the test images gave. Accuracies are between 0 and 1.
struct TestFigures {
  double loss = 0, accuracy = 0, accuracy_tta = 0;
};

/// What the images kept aside gave.
struct HeldOutFigures {
  double loss = 0, accuracy = 0;
};

/// One line of metrics.csv; seconds are those of training, evaluation apart.
struct MetricsRow {
  std::int64_t epoch = 0, step = 0;
  double seconds = 0, lr = 0, train_loss = 0, train_accuracy = 0;
  std::optional<TestFigures> test;  ///< where the epoch was evaluated
  double images_per_second = 0;
  std::optional<HeldOutFigures> held_out;  ///< with --holdout
};
void to_json(nlohmann::json& to, const MetricsRow& row);
void from_json(const nlohmann::json& from, MetricsRow& row);

class RunFolder {
 public:
  /// The folder of a run. Of a new run it only checks that no checkpoint is there; a resumed one needs one, locks the
  /// folder, and removes the parts of files that killed writers left.
  explicit RunFolder(const TrainOptions& options);
  /// Makes the folder where it is missing: without --out the first free of runs/1, runs/2, ... Error where another
  /// process writes into it.
  void make();

  const std::string& path() const { return path_; }
  std::string last() const { return path_ + "/last.safetensors"; }
  std::string best() const { return path_ + "/best.safetensors"; }
  std::string metrics() const { return path_ + "/metrics.csv"; }
  std::string run() const { return path_ + "/run.json"; }
  /// Calls `write`, which puts a file into the folder. Error where another folder lies at path() by now: the file would
  /// be among another run's.
  template <typename F>
  void put(F&& write) const {
    expect_in_place();
    try {
      write();
    } catch (const Error&) {
      expect_in_place();  // which says more than the write where the folder went away meanwhile
      throw;
    }
  }
  void write_metrics(const std::vector<MetricsRow>& rows) const;
  /// Every option, and with which program, compiler and processor the run is made.
  void write_run(const nlohmann::json& options, const nlohmann::json& facts) const;

 private:
  /// Keeps other processes out as long as this object lives, where the file system can.
  void lock();
  void expect_in_place() const;

  std::string path_;
  bool resume_;
  std::unique_ptr<Descriptor> lock_;
};

}  // namespace dattn
