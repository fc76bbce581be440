// The programs `train` and `eval` as a user runs them: files, resumption bit for bit, signals, errors by their text.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/resource.h>

#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/state_file.h"
#include "core/whole_file.h"
#include "cuda/enable.h"
#include "program.h"
#include "small.h"

namespace dattn::test {
namespace {

class TrainProgram : public testing::Test {
 protected:
  TrainProgram() { write_small_cifar(data(), 3 * kBatch / 5); }

  static inline const int kBatch = small() ? 5 : 20;

  std::string data() const { return folder_ / "cifar"; }
  std::string out(const std::string& name) const { return folder_ / name; }
  // Without attention where sanitizers make it slow; ResumesToTheSameBits has it all the same.
  static inline const std::string kQuick = small() ? "--attention none " : "";

  // 3 kBatch images, 3 epochs of 3 steps.
  std::string command(const std::string& out_name, const std::string& more = "") const {
    return fmt::format("--data {} --out {} --batch-size {} --epochs 3 --seed 5 --attention dattention {}", data(),
                       out(out_name), kBatch, more);
  }
  StateFile last(const std::string& out_name) const { return read_state_file(out(out_name) + "/last.safetensors"); }

  TemporaryFolder folder_;
};

// All tensors bit for bit, and the state but for the seconds.
void expect_same_checkpoint(const StateFile& a, const StateFile& b) {
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (const auto& [name, x] : a.tensors) {
    const Tensor& y = b.tensors.at(name);
    ASSERT_EQ(x.bytes(), y.bytes()) << name;
    EXPECT_EQ(std::memcmp(x.raw(), y.raw(), x.bytes()), 0) << name;
  }
  const auto state_a = nlohmann::json::parse(a.metadata.at("state")),
             state_b = nlohmann::json::parse(b.metadata.at("state"));
  EXPECT_EQ(state_a.at("step"), state_b.at("step"));
  ASSERT_EQ(state_a.at("rows").size(), state_b.at("rows").size());
  for (std::size_t i = 0; i < state_a.at("rows").size(); ++i) {
    for (const char* key :
         {"epoch", "step", "lr", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "test_accuracy_tta"}) {
      EXPECT_EQ(state_a["rows"][i][key], state_b["rows"][i][key]) << key << " of row " << i;
    }
  }
}

constexpr const char* kMetricsHeader =
    "epoch,step,seconds,lr,train_loss,train_accuracy,test_loss,test_accuracy,test_accuracy_tta,images_per_second";

TEST_F(TrainProgram, LeavesCheckpointMetricsAndRecord) {
  const auto result = run_program("train", command("a", "--holdout 5 --epochs 2"));
  ASSERT_EQ(result.status, 0) << result.output;
  EXPECT_NE(result.output.find("eval --checkpoint"), std::string::npos) << result.output;
  EXPECT_TRUE(std::filesystem::exists(out("a") + "/best.safetensors"));
  std::ifstream csv(out("a") + "/metrics.csv");
  std::string header, first, second, third;
  std::getline(csv, header);
  std::getline(csv, first);
  std::getline(csv, second);
  EXPECT_EQ(header, std::string(kMetricsHeader) + ",held_out_loss,held_out_accuracy");
  EXPECT_EQ(std::count(first.begin(), first.end(), ','), 11) << first;
  EXPECT_EQ(first.rfind("1,2,", 0), 0u) << first;
  EXPECT_EQ(second.rfind("2,4,", 0), 0u) << second;
  EXPECT_FALSE(std::getline(csv, third));
  const auto run = nlohmann::json::parse(read_text(out("a") + "/run.json"));
  EXPECT_EQ(run["options"]["batch-size"], kBatch);
  EXPECT_EQ(run["seed"], 5);
  EXPECT_TRUE(run.contains("version") && run.contains("compiler") && run.contains("processor"));
}

TEST_F(TrainProgram, WarmsUpWithoutATrace) {
  ASSERT_EQ(run_program("train", command("cold", kQuick + "--epochs 1 --ema")).status, 0);
  const auto result = run_program("train", command("warm", kQuick + "--epochs 1 --ema --warm-up"));
  ASSERT_EQ(result.status, 0) << result.output;
  expect_same_checkpoint(last("cold"), last("warm"));
  const std::string metrics = read_text(out("warm") + "/metrics.csv");
  EXPECT_EQ(metrics.substr(0, metrics.find('\n')), kMetricsHeader);
  EXPECT_EQ(nlohmann::json::parse(read_text(out("warm") + "/run.json"))["options"]["warm-up"], true);
}

TEST_F(TrainProgram, ShowsTheFirstStepOfARunAtOnce) {
  const auto result = run_program("train", command("a", kQuick + "--epochs 2"));
  ASSERT_EQ(result.status, 0) << result.output;
  EXPECT_NE(result.output.find("epoch 1/2  step 1/6 "), std::string::npos) << result.output;
  EXPECT_EQ(result.output.find("epoch 2/2  step "), std::string::npos) << result.output;
}

TEST_F(TrainProgram, EvaluatesTheLastEpochAndEveryNth) {
  const auto result = run_program("train", command("a", "--epochs 3 --eval-every 2"));
  ASSERT_EQ(result.status, 0) << result.output;
  const auto rows = nlohmann::json::parse(last("a").metadata.at("state")).at("rows");
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_FALSE(rows[0].contains("test_accuracy"));
  EXPECT_TRUE(rows[1].contains("test_accuracy") && rows[2].contains("test_accuracy"));
  EXPECT_NE(read_text(out("a") + "/metrics.csv").find(",,,"), std::string::npos);
}

TEST_F(TrainProgram, EvalGivesTheAccuracyThatTrainingPrinted) {
  ASSERT_EQ(run_program("train", command("a", "--epochs 1 --ema")).status, 0);
  const auto result =
      run_program("eval", "--checkpoint " + out("a") + "/last.safetensors --data " + data() + " --tta --json");
  ASSERT_EQ(result.status, 0) << result.output;
  const auto json = nlohmann::json::parse(result.output);
  const auto row = nlohmann::json::parse(last("a").metadata.at("state")).at("rows").back();
  EXPECT_EQ(json.at("accuracy"), row.at("test_accuracy"));
  EXPECT_EQ(json.at("accuracy_tta"), row.at("test_accuracy_tta"));
  EXPECT_EQ(json.at("loss"), row.at("test_loss"));
  EXPECT_GE(json.at("top5").get<double>(), json.at("accuracy").get<double>());
  const auto table =
      run_program("eval", "--checkpoint " + out("a") + "/last.safetensors --data " + data() + " --split train");
  EXPECT_EQ(table.status, 0) << table.output;
  EXPECT_NE(table.output.find("airplane"), std::string::npos) << table.output;
}

TEST_F(TrainProgram, ResumesToTheSameBits) {
  ASSERT_EQ(run_program("train", command("whole", "--ema --threads 1")).status, 0);
  // Stopped in the middle of the second epoch, and gone on with by another number of threads.
  ASSERT_EQ(run_program("train", command("parts", "--ema --max-steps 5")).status, 0);
  const auto result = run_program("train", "--out " + out("parts") + " --resume --threads 2");
  ASSERT_EQ(result.status, 0) << result.output;
  expect_same_checkpoint(last("whole"), last("parts"));
}

TEST_F(TrainProgram, TrainsInEitherPrecision) {
  for (const std::string precision : {"float32", "bfloat16"}) {
    const std::string options = kQuick + "--precision " + precision + " ", parts = "parts-" + precision;
    ASSERT_EQ(run_program("train", command("whole-" + precision, options)).status, 0);
    ASSERT_EQ(run_program("train", command(parts, options + "--max-steps 4")).status, 0);
    const auto result = run_program("train", "--out " + out(parts) + " --resume");
    ASSERT_EQ(result.status, 0) << result.output;
    expect_same_checkpoint(last("whole-" + precision), last(parts));
    for (const auto& [name, x] : last(parts).tensors) EXPECT_NE(x.dtype(), Dtype::bfloat16) << name;
    const std::string different = precision == "float32" ? "bfloat16" : "float32";
    const auto other = run_program("train", "--out " + out(parts) + " --resume --precision " + different);
    EXPECT_EQ(other.status, 1);
    EXPECT_NE(other.output.find("--precision"), std::string::npos) << other.output;
  }
}

TEST_F(TrainProgram, ResumesAfterKill) {
  const auto start = std::chrono::steady_clock::now();
  ASSERT_EQ(run_program("train", command("whole", kQuick)).status, 0);
  const std::chrono::duration<double> whole = std::chrono::steady_clock::now() - start;
  for (const double share : {0.2, 0.4, 0.6}) {
    const std::string resume = std::filesystem::exists(out("killed") + "/last.safetensors") ? " --resume" : "";
    if (resume.empty()) std::filesystem::remove_all(out("killed"));
    run_and_signal("train", command("killed", kQuick + "--save-every 1" + resume), share * whole.count(), SIGKILL);
  }
  const bool begun = std::filesystem::exists(out("killed") + "/last.safetensors");
  const auto result = run_program("train", command("killed", kQuick + (begun ? "--resume" : "")));
  ASSERT_EQ(result.status, 0) << result.output;
  expect_same_checkpoint(last("whole"), last("killed"));
}

TEST_F(TrainProgram, AnInterruptSavesAndStops) {
  const auto stopped =
      run_and_signal("train", command("stopped", kQuick + "--epochs 200"), small() ? 5.0 : 1.0, SIGINT);
  ASSERT_EQ(stopped.status, 130) << stopped.output;
  EXPECT_NE(stopped.output.find("--resume"), std::string::npos) << stopped.output;
  const int step = nlohmann::json::parse(last("stopped").metadata.at("state")).at("step");
  ASSERT_EQ(
      run_program("train", command("same", kQuick + fmt::format("--epochs 200 --max-steps {}", std::max(1, step))))
          .status,
      0);
  for (const auto& [name, x] : last("same").tensors) {
    EXPECT_EQ(std::memcmp(x.raw(), last("stopped").tensors.at(name).raw(), x.bytes()), 0) << name;
  }
  const auto hung_up =
      run_and_signal("train", command("hung-up", kQuick + "--epochs 200"), small() ? 5.0 : 1.0, SIGHUP, 3);
  EXPECT_EQ(hung_up.status, 130) << hung_up.output;
}

TEST_F(TrainProgram, RefusesWhatCannotBe) {
  struct {
    std::string arguments;
    int status;
    std::string text;
  } const cases[] = {
      {"--data /nowhere --out " + out("x"), 1, "/nowhere"},
      {"--epochs 0", 2, "--epochs"},
      {"--batch-size -3", 2, "--batch-size"},
      {"--frobnicate", 2, "frobnicate"},
      {"--model resnet18 --attention self", 2, "--attention"},
      {"--model resnet18 --attention-maps 15", 2, "--attention-maps"},
      {"--attention-maps 16", 2, "--attention-maps"},
      {"--attention-maps 15 --attention none", 2, "with none there are no blocks"},
      {"--attention-stride 2 --attention self", 2, "self looks at every pixel"},
      {"--attention-maps ''", 2, "--attention-maps: expected some of 31, 15, 7"},
      {"--attention-stride 8", 2, "8 is larger than the smallest map with attention, 7 x 7"},
      {"--out ''", 2, "--out: expected a path, got nothing"},
      {"--config ''", 2, "--config: expected a path, got nothing"},
      {"--config /proc/self/mem", 2, "--config /proc/self/mem: the file cannot be read"},
      {"--config /dev/zero", 2, "--config /dev/zero: expected a file of at most 1 MiB"},
      {"--resume", 2, "--out"},
      {"--ema=5", 2, "--ema: expected yes or no, got 5"},
      {"--out " + out("none") + " --resume", 1, "nothing to resume"},
      {command("x", fmt::format("--batch-size {}", 3 * kBatch + 1)), 1,
       fmt::format("{} images a step, but only {}", 3 * kBatch + 1, 3 * kBatch)},
      {command("x", fmt::format("--holdout {}", 3 * kBatch)), 1, "--holdout"},
      {"--config " + out("no.ini"), 2, "no.ini"},
      {"--seed -1", 2, "--seed"},
      {"--seed 99999999999999999999", 2, "--seed"},
      {"--batch-size 2e3", 2, "--batch-size"},
      {command("x", "--epochs 1e300"), 1, "--epochs: 1e+300 epochs"},
  };
  for (const auto& [arguments, status, text] : cases) {
    const auto result = run_program("train", arguments);
    EXPECT_EQ(result.status, status) << arguments << "\n" << result.output;
    EXPECT_NE(result.output.find(text), std::string::npos) << arguments << "\n" << result.output;
  }
  EXPECT_FALSE(std::filesystem::exists(out("x")));  // nothing is left of what did not begin
}

TEST_F(TrainProgram, KeepsARunThatIsThere) {
  ASSERT_EQ(run_program("train", command("a", "--max-steps 1")).status, 0);
  const auto again = run_program("train", command("a", "--max-steps 1"));
  EXPECT_EQ(again.status, 1);
  EXPECT_NE(again.output.find("holds a run already"), std::string::npos) << again.output;
  std::filesystem::create_directories(out("b"));
  std::ofstream(out("b") + "/best.safetensors") << "of a run that was killed before its first save";
  const auto best = run_program("train", command("b", "--max-steps 1"));
  EXPECT_EQ(best.status, 1);
  EXPECT_NE(best.output.find("choose another --out, or delete that file"), std::string::npos) << best.output;
  std::filesystem::create_directories(out("c"));
  std::ofstream(out("c") + "/metrics.csv") << "of somebody else\n";
  const auto metrics = run_program("train", command("c", "--max-steps 1"));
  EXPECT_EQ(metrics.status, 1);
  EXPECT_NE(metrics.output.find("holds the metrics of a run"), std::string::npos) << metrics.output;
  EXPECT_EQ(read_text(out("c") + "/metrics.csv"), "of somebody else\n");
  const auto other = run_program("train", command("a", "--resume --lr-scale 2"));
  EXPECT_EQ(other.status, 1);
  EXPECT_NE(other.output.find("--lr-scale: the run has 1.0, asked for 2.0"), std::string::npos) << other.output;
}

TEST_F(TrainProgram, TheBestIsSavedBeforeTheEpochCounts) {
  ASSERT_EQ(run_program("train", command("a", kQuick + "--holdout 5 --epochs 1 --max-steps 1")).status, 0);
  std::filesystem::create_directories(out("a") + "/best.safetensors/in the way");
  const auto failed = run_program("train", "--resume --out " + out("a") + " --save-every 1");
  EXPECT_EQ(failed.status, 1) << failed.output;
  std::filesystem::remove_all(out("a") + "/best.safetensors");
  const auto resumed = run_program("train", "--resume --out " + out("a"));
  ASSERT_EQ(resumed.status, 0) << resumed.output;
  const std::string metrics = read_text(out("a") + "/metrics.csv");
  EXPECT_EQ(std::count(metrics.begin(), metrics.end(), '\n'), 2) << metrics;
  ASSERT_EQ(run_program("train", command("b", kQuick + "--holdout 5 --epochs 1")).status, 0);
  expect_same_checkpoint(last("a"), last("b"));
  expect_same_checkpoint(read_state_file(out("a") + "/best.safetensors"), last("b"));
}

TEST_F(TrainProgram, AStopInAnEpochChoosesNothing) {
  ASSERT_EQ(run_program("train", command("a", kQuick + "--holdout 5 --max-steps 1")).status, 0);
  EXPECT_FALSE(std::filesystem::exists(out("a") + "/best.safetensors"));
}

TEST_F(TrainProgram, AFinishedRunHasItsMetricsAgain) {
  ASSERT_EQ(run_program("train", command("a", kQuick + "--epochs 1")).status, 0);
  const std::string metrics = read_text(out("a") + "/metrics.csv");
  std::filesystem::remove(out("a") + "/metrics.csv");
  ASSERT_EQ(run_program("train", "--resume --out " + out("a")).status, 0);
  EXPECT_EQ(read_text(out("a") + "/metrics.csv"), metrics);
}

TEST_F(TrainProgram, OneProcessWritesIntoAFolder) {
  ASSERT_EQ(run_program("train", command("a", kQuick + "--max-steps 1")).status, 0);
  const std::string partial = out("a") + "/last.safetensors.partial-1-0";
  std::ofstream(partial) << "of the other process";
  std::filesystem::create_directories(out("b"));
  for (const auto& [name, more] : {std::pair("a", "--resume"), {"b", ""}}) {
    const Descriptor folder(::open(out(name).c_str(), O_RDONLY | O_DIRECTORY));
    ASSERT_EQ(::flock(folder.get(), LOCK_EX), 0);
    const auto result = run_program("train", command(name, kQuick + more));
    EXPECT_EQ(result.status, 1);
    EXPECT_NE(result.output.find("another train writes into this folder"), std::string::npos) << result.output;
  }
  EXPECT_TRUE(std::filesystem::exists(partial));
  ASSERT_EQ(run_program("train", "--resume --out " + out("a")).status, 0);
  EXPECT_FALSE(std::filesystem::exists(partial));
}

TEST_F(TrainProgram, DataMayMoveButNotChange) {
  ASSERT_EQ(run_program("train", command("a", kQuick + "--max-steps 1")).status, 0);
  ASSERT_EQ(run_program("train", command("b", kQuick)).status, 0);
  std::filesystem::rename(data(), folder_ / "moved");
  const std::string resume = "--resume --out " + out("a") + " --data " + (folder_ / "moved");
  const std::string file = folder_ / "moved/data_batch_1.bin";
  const std::string bytes = read_text(file);
  std::string changed = bytes;
  changed[100] = static_cast<char>(changed[100] ^ 1);
  std::ofstream(file, std::ios::binary) << changed;
  const auto refused = run_program("train", resume);
  EXPECT_EQ(refused.status, 1);
  EXPECT_NE(refused.output.find("are not those that the run in " + out("a") + " was made with"), std::string::npos)
      << refused.output;
  std::ofstream(file, std::ios::binary) << bytes;
  const auto resumed = run_program("train", resume);
  ASSERT_EQ(resumed.status, 0) << resumed.output;
  expect_same_checkpoint(last("a"), last("b"));
}

TEST_F(TrainProgram, PathsAreInUtf8) {
  const auto result = run_program("train", command("caf\xe9", kQuick));
  EXPECT_EQ(result.status, 1);
  EXPECT_NE(result.output.find("--out: expected a path in UTF-8"), std::string::npos) << result.output;
}

TEST_F(TrainProgram, AFinishedRunSaysSo) {
  ASSERT_EQ(run_program("train", command("a", "--epochs 1")).status, 0);
  const auto again = run_program("train", command("a", "--epochs 1 --resume"));
  EXPECT_EQ(again.status, 0) << again.output;
  EXPECT_NE(again.output.find("finished"), std::string::npos) << again.output;
}

TEST_F(TrainProgram, LostNumbersStopTheRun) {
  const auto result = run_program("train", command("a", "--lr-scale 1e30 --save-every 1"));
  EXPECT_EQ(result.status, 1) << result.output;
  EXPECT_NE(result.output.find("step"), std::string::npos) << result.output;
  EXPECT_NE(result.output.find("learning rate"), std::string::npos) << result.output;
}

TEST_F(TrainProgram, ReadsAConfigFile) {
  std::ofstream(folder_ / "options.ini") << "epochs = 1\nseed = 010\nbatch-size = " << 3 * kBatch / 2 << "\n";
  const auto result = run_program("train", "--config " + (folder_ / "options.ini") + " --data " + data() + " --out " +
                                               out("a") + " --attention none");
  ASSERT_EQ(result.status, 0) << result.output;
  EXPECT_EQ(nlohmann::json::parse(last("a").metadata.at("state")).at("step"), 2);
  EXPECT_EQ(nlohmann::json::parse(last("a").metadata.at("options")).at("seed"), 10);  // decimal
}

TEST_F(TrainProgram, RefusesAConfigFileOfOtherOptionsOrValues) {
  const struct {
    const char *line, *text;
  } cases[] = {
      {"nosuch = 1", "options.ini: expected names of options that --help lists, found nosuch"},
      {"help = true", "options.ini: expected names of options that --help lists, found help"},
      {"config = other.ini", "options.ini: expected names of options that --help lists, found config"},
      {"[train]\nseed = 1", "options.ini: expected lines `name = value`, found a section [train]"},
      {"seed = []", "options.ini: expected one value for seed, found none"},
      {"batch-size = 5 6", "options.ini: expected one value for batch-size, found several"},
      {"ema = 5", "--ema: expected yes or no, got 5"},
      {"attention-maps = [31, 16]", "--attention-maps: expected some of 31, 15, 7 with commas between, got 31,16"}};
  for (const auto& [line, text] : cases) {
    std::ofstream(folder_ / "options.ini") << line << "\n";
    const auto result = run_program("train", "--config " + (folder_ / "options.ini") + " --out " + out("a"));
    EXPECT_EQ(result.status, 2) << line;
    EXPECT_NE(result.output.find(text), std::string::npos) << result.output;
  }
}

TEST_F(TrainProgram, ChecksOptionsAgainstThoseOfTheRunItGoesOnWith) {
  const std::string maps = "--attention-maps 7 --attention-maps 31 ",
                    stride = "--attention-stride 8";  // the last counts
  ASSERT_EQ(run_program("train", command("a", maps + stride + " --max-steps 1")).status, 0);
  const std::string resume = "--out " + out("a") + " --resume --max-steps 2 ";
  const auto same = run_program("train", resume + stride),
             other = run_program("train", resume + "--attention-stride 4");
  EXPECT_EQ(same.status, 0) << same.output;
  EXPECT_EQ(other.status, 1);
  EXPECT_NE(other.output.find("--attention-stride: the run has 8, asked for 4"), std::string::npos) << other.output;
}

TEST_F(TrainProgram, OutputThatCannotBeWrittenIsAnError) {
  const auto result = run_program("train", command("a", kQuick + "--epochs 1 > /dev/full"));
  EXPECT_EQ(result.status, 1);
  EXPECT_NE(result.output.find("standard output cannot be written"), std::string::npos) << result.output;
  EXPECT_EQ(nlohmann::json::parse(last("a").metadata.at("state")).at("step"), 3);
}

TEST_F(TrainProgram, TheStatusStandsWhereNoErrorCanBeWritten) {
  EXPECT_EQ(run_program("train", "--data /nowhere 2> /dev/full").status, 1);
  EXPECT_EQ(run_program("train", "--frobnicate 2> /dev/full").status, 2);
  EXPECT_EQ(run_program("eval", "--checkpoint none --data none 2>&-").status, 1);
  EXPECT_EQ(run_program("dattn_golden", "2> /dev/full").status, 2);
}

TEST_F(TrainProgram, AFolderThatIsReplacedIsLeftAlone) {
  if (small()) GTEST_SKIP() << "a matter of time, which sanitizers stretch";
  const auto lost =
      run_program("train", command("lost", kQuick + fmt::format("--epochs 200 & p=$!; sleep 1; mv {0} {0}-old; "
                                                                "mkdir {0}; kill -TERM $p; wait $p",
                                                                out("lost"))));
  EXPECT_EQ(lost.status, 1);
  EXPECT_NE(lost.output.find("the run's folder was moved or replaced while it ran"), std::string::npos) << lost.output;
  EXPECT_TRUE(std::filesystem::is_empty(out("lost")));
}

TEST_F(TrainProgram, AFileBeyondTheLimitIsAnError) {
  rlimit limit{};
  ::getrlimit(RLIMIT_FSIZE, &limit);
  const rlimit low{100'000, limit.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &low);
  const auto result = run_program("train", command("a", kQuick + "--epochs 1"));
  ::setrlimit(RLIMIT_FSIZE, &limit);
  EXPECT_EQ(result.status, 1);
  EXPECT_NE(result.output.find("last.safetensors: cannot be written"), std::string::npos) << result.output;
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(out("a")), {}), 2);  // metrics.csv and run.json
}

TEST_F(TrainProgram, EvalRefusesCheckpointsThatCannotBe) {
  ASSERT_EQ(run_program("train", command("a", kQuick + "--max-steps 1")).status, 0);
  const StateFile good = last("a");
  struct {
    const char *what, *patch, *text;
  } const cases[] = {
      {"data", R"({"classes": ["one", "two"]})", "the model has 10 classes, of which 2 have a name"},
      {"data", R"({"std": [0, 1, 1]})", "images cannot be normalised"},
      {"model", R"({"name": "vgg"})", "expected a model of dattn_cnn, dattn_cnn_wide, resnet18, found vgg"},
      {"model", R"({"attention": "foo"})", "expected an attention of dattention, self, none, found foo"},
      {"model", R"({"attention_maps": [9]})", "expected a map's side of 31, 15, 7, found 9"},
      {"model", R"({"classes": 10.7})", "expected a whole number of classes, found 10.7"},
      {"options", "[1]", "no JSON objects"},
      {"options", R"({"precision": [[[[[[[[[[[[1]]]]]]]]]]]]})", "`options` is nested too deep"},
      {"options", R"({"precision": 7})", "expected a precision of float32, bfloat16, found 7"},
  };
  for (const auto& [what, patch, text] : cases) {
    Metadata metadata = good.metadata;
    auto changed = nlohmann::json::parse(metadata.at(what));
    const auto with = nlohmann::json::parse(patch);
    with.is_object() ? changed.update(with) : void(changed = with);
    metadata[what] = changed.dump();
    write_state_file(out("bad"), good.tensors, metadata);
    const auto result = run_program("eval", "--checkpoint " + out("bad") + " --data " + data());
    EXPECT_EQ(result.status, 1) << patch;
    EXPECT_NE(result.output.find("checkpoint " + out("bad")), std::string::npos) << result.output;
    EXPECT_NE(result.output.find(text), std::string::npos) << result.output;
  }
}

TEST_F(TrainProgram, EvalRefusesNumbersThatAreNotFinite) {
  ASSERT_EQ(run_program("train", command("a", kQuick + "--max-steps 1")).status, 0);
  const StateFile good = last("a");
  TensorMap tensors = good.tensors;
  const std::string name = "model.group1.norm1.running_var";
  ASSERT_TRUE(tensors.contains(name));
  tensors.at(name) = Tensor::full(tensors.at(name).shape(), std::numeric_limits<double>::infinity());
  write_state_file(out("bad"), tensors, good.metadata);
  const auto result = run_program("eval", "--checkpoint " + out("bad") + " --data " + data());
  EXPECT_EQ(result.status, 1);
  EXPECT_NE(result.output.find("running_var holds numbers that are not finite"), std::string::npos) << result.output;
}

TEST_F(TrainProgram, EvalRefusesOtherClassesOfTheSameNumber) {
  ASSERT_EQ(run_program("train", command("a", kQuick + "--max-steps 1")).status, 0);
  const auto result = run_program("eval", "--checkpoint " + out("a") + "/last.safetensors --data synthetic");
  EXPECT_EQ(result.status, 1);
  EXPECT_NE(result.output.find("class 0 of the checkpoint is airplane"), std::string::npos) << result.output;
}

TEST_F(TrainProgram, AttentionStandsWhereItIsAskedFor) {
  const std::string blocks = "--attention-maps 7,31,7 --attention-stride 4";
  ASSERT_EQ(run_program("train", command("maps", blocks + " --max-steps 1 --batch-size 5")).status, 0);
  ASSERT_EQ(run_program("train", "--resume --max-steps 2 --out " + out("maps")).status, 0);
  const auto file = last("maps");
  EXPECT_TRUE(file.tensors.count("model.attention0.attention.proj_q.weight"));
  EXPECT_FALSE(file.tensors.count("model.attention1.attention.proj_q.weight"));
  EXPECT_TRUE(file.tensors.count("model.attention2.attention.proj_q.weight"));
  const auto model = nlohmann::json::parse(file.metadata.at("model"));
  EXPECT_EQ(model.at("attention_maps"), nlohmann::json({31, 7}));
  const auto eval =
      run_program("eval", "--checkpoint " + out("maps") + "/last.safetensors --data " + data() + " --json");
  ASSERT_EQ(eval.status, 0) << eval.output;
}

TEST_F(TrainProgram, ResnetTrains) {
  const auto result =
      run_program("train", "--data " + data() + " --model resnet18 --batch-size 5 --max-steps 2 --out " + out("r"));
  ASSERT_EQ(result.status, 0) << result.output;
}

TEST_F(TrainProgram, TheWideNetworkTrainsGoesOnAndIsEvaluated) {
  if (small()) GTEST_SKIP() << "long; its parts are looked at by shorter tests too";
  const std::string options = "--data " + data() + " --model dattn_cnn_wide --batch-size 5 --out " + out("wide");
  ASSERT_EQ(run_program("train", options + " --max-steps 1").status, 0);
  const auto result = run_program("train", "--resume --max-steps 2 --out " + out("wide"));
  ASSERT_EQ(result.status, 0) << result.output;
  const auto eval =
      run_program("eval", "--checkpoint " + out("wide") + "/last.safetensors --data " + data() + " --json");
  ASSERT_EQ(eval.status, 0) << eval.output;
  const auto row = nlohmann::json::parse(last("wide").metadata.at("state")).at("rows").back();
  EXPECT_EQ(nlohmann::json::parse(eval.output).at("accuracy"), row.at("test_accuracy"));
  const auto refused = run_program("train", options + " --model resnet18 --attention self");
  EXPECT_EQ(refused.status, 2) << refused.output;
  EXPECT_NE(
      refused.output.find("--attention: belongs to --model dattn_cnn and dattn_cnn_wide; resnet18 has no attention"),
      std::string::npos)
      << refused.output;
}

TEST_F(TrainProgram, EvalTakesTheDeviceAskedFor) {
  const std::string nothing = "--checkpoint /nowhere --data synthetic --device ";
  const auto wrong = run_program("eval", nothing + "gpu");
  EXPECT_EQ(wrong.status, 2) << wrong.output;
  EXPECT_NE(wrong.output.find("--device: gpu not in {cpu,cuda,auto}"), std::string::npos) << wrong.output;
  const auto why = cuda::why_unusable();
  const auto unusable = run_program("eval", nothing + "cuda");
  EXPECT_EQ(unusable.status, 1) << unusable.output;
  if (why) {
    EXPECT_EQ(unusable.output, "eval: " + *why + "\n");
  }

  ASSERT_EQ(run_program("train", command("a", "--attention none --max-steps 1")).status, 0);
  const std::string arguments = "--checkpoint " + out("a") + "/last.safetensors --data " + data() + " --json --device ";
  const auto here = run_program("eval", arguments + "cpu"), chosen = run_program("eval", arguments + "auto");
  ASSERT_EQ(chosen.status, 0) << chosen.output;
  const auto expected = nlohmann::json::parse(here.output), found = nlohmann::json::parse(chosen.output);
  EXPECT_NEAR(found.at("loss").get<double>(), expected.at("loss").get<double>(), 1e-4);
  if (why) {
    EXPECT_EQ(chosen.output, here.output);
  }
}

TEST_F(TrainProgram, EvalRefusesBrokenCheckpoints) {
  ASSERT_EQ(run_program("train", command("a", "--attention none --max-steps 1")).status, 0);
  const std::string bytes = read_text(out("a") + "/last.safetensors");
  for (int i = 0; i < rounds(40); ++i) {
    std::ofstream(folder_ / "broken.safetensors", std::ios::binary)
        << bytes.substr(0, bytes.size() * static_cast<std::size_t>(i) / 40);
    const auto result = run_program("eval", "--checkpoint " + (folder_ / "broken.safetensors") + " --data " + data());
    EXPECT_EQ(result.status, 1) << result.output;
  }
  const auto missing = run_program("eval", "--checkpoint " + out("a") + "/no.safetensors --data " + data());
  EXPECT_EQ(missing.status, 1);
  EXPECT_NE(missing.output.find("no.safetensors"), std::string::npos) << missing.output;
  EXPECT_EQ(run_program("eval", "--data " + data()).status, 2);
}

}  // namespace
}  // namespace dattn::test
