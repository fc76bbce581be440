// The program `eval`: evaluates a checkpoint on a data set; it needs nothing but the file.
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/output.h"
#include "core/parallel.h"
#include "datasets/images.h"
#include "train/checkpoint.h"
#include "train/command_line.h"
#include "train/evaluate.h"

namespace dattn {
namespace {

struct Options {
  std::string checkpoint, data, split = "test", device = "cpu", precision;  // empty: the run's
  bool tta = false, json = false;
  int threads = 0;
};

nlohmann::json to_json(const Options& options, const Evaluation& e, const std::vector<std::string>& names) {
  nlohmann::json result = {{"checkpoint", options.checkpoint},
                           {"data", options.data},
                           {"split", options.split},
                           {"images", e.images},
                           {"loss", e.loss},
                           {"accuracy", e.accuracy},
                           {"top5", e.top5}};
  if (e.accuracy_tta) result["accuracy_tta"] = *e.accuracy_tta;
  for (std::int64_t c = 0; c < e.classes(); ++c) {
    result["classes"].push_back({{"name", names[static_cast<std::size_t>(c)]}, {"accuracy", e.class_accuracy(c)}});
    result["confusion"].push_back(
        std::vector(e.confusion.begin() + c * e.classes(), e.confusion.begin() + (c + 1) * e.classes()));
  }
  return result;
}

void print_table(const Options& options, const Evaluation& e, const std::vector<std::string>& names) {
  print_output("{} on {} ({}, {} images)\n\n", options.checkpoint, options.data, options.split, e.images);
  print_output("loss            {:8.4f}\naccuracy        {:8.2f} %\ntop-5 accuracy  {:8.2f} %\n", e.loss,
               100 * e.accuracy, 100 * e.top5);
  if (e.accuracy_tta) print_output("with test-time augmentation {:.2f} %\n", 100 * *e.accuracy_tta);
  std::size_t width = 5;
  for (const auto& name : names) width = std::max(width, name.size());
  std::int64_t most = 0;
  for (const std::int64_t count : e.confusion) most = std::max(most, count);
  const auto digits = static_cast<int>(std::max<std::size_t>(4, std::to_string(most).size() + 1));
  print_output("\n{:<{}}  accuracy  predicted as", "class", width);
  for (std::int64_t c = 0; c < e.classes(); ++c) {
    const auto name = names[static_cast<std::size_t>(c)];
    print_output("{}{:<{}}  {:>6.2f} % ", "\n", name, width, 100 * e.class_accuracy(c));
    for (std::int64_t p = 0; p < e.classes(); ++p)
      print_output("{:>{}}", e.confusion[static_cast<std::size_t>(c * e.classes() + p)], digits);
  }
  print_output("\n");
}

int run(const Options& options) {
  if (options.threads > 0) set_thread_count(options.threads);
  const Device device = use_device(options.device);
  const Checkpoint checkpoint(options.checkpoint);
  const auto model = load_model(checkpoint);
  move_to(*model, device);
  DataSets data = load_data(options.data);
  const ImageSet& set = options.split == "train" ? data.train : data.test;
  const auto& names = checkpoint.info().class_names;
  check(set.classes() == checkpoint.info().model.classes,
        "{}: the checkpoint knows {} classes, {} has {}\nhint: give --data the set it was trained on",
        options.checkpoint, checkpoint.info().model.classes, options.data, set.classes());
  const auto other = std::mismatch(names.begin(), names.end(), set.class_names.begin());
  if (other.first != names.end()) {
    fail("{}: class {} of the checkpoint is {}, of {} it is {}\nhint: give --data the set it was trained on",
         options.checkpoint, other.first - names.begin(), *other.first, options.data, *other.second);
  }
  EvaluateOptions how;
  how.tta = options.tta;
  how.precision = precision_type(options.precision.empty() ? checkpoint.info().options.value("precision", "float32")
                                                           : options.precision);
  const Evaluation e = *evaluate(*model, set, checkpoint.info().normalisation, how);
  if (options.json) {
    print_output("{}\n", to_json(options, e, names).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  } else {
    print_table(options, e, names);
  }
  return 0;
}

}  // namespace
}  // namespace dattn

int main(int argc, char** argv) {
  return dattn::run_program("eval", [&] {
    dattn::Options options;
    CLI::App app{"Evaluate a checkpoint: loss, accuracy, accuracy by class, confusion matrix."};
    app.option_defaults()->take_last();  // an option given twice counts as given last
    app.add_option("--checkpoint", options.checkpoint, "File that `train` wrote")->required();
    app.add_option("--data", options.data, "Folder with the data, or cifar10, or synthetic")->required();
    app.add_option("--split", options.split, "Which part of the data")
        ->check(CLI::IsMember({"test", "train"}))
        ->capture_default_str();
    app.add_option("--precision", options.precision, "Type of activations [that of the training run]")
        ->check(dattn::one_of(dattn::kPrecisions));
    dattn::add_device_option(app, options.device);
    dattn::add_threads_option(app, options.threads);
    dattn::add_flag(app, "--tta", options.tta, "Test-time augmentation as well: mirrored and shifted views averaged");
    dattn::add_flag(app, "--json", options.json, "One JSON object in place of tables");
    try {
      app.parse(argc, argv);
    } catch (const CLI::ParseError& e) {
      return dattn::exit_after(app, e);
    }
    return dattn::run(options);
  });
}
