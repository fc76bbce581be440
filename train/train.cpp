// The program `train`: trains a classifier and leaves checkpoints, metrics and a record of the run in a folder.
#include <cstdio>
#include <exception>

#include "train/options.h"
#include "train/trainer.h"

int main(int argc, char** argv) try {
  auto parsed = dattn::parse_train_options(argc, argv);
  if (parsed.exit_code >= 0) return parsed.exit_code;
  return dattn::Trainer(parsed.options, parsed.given).run();
} catch (const std::exception& error) {
  std::fflush(stdout);
  fmt::print(stderr, "train: {}\n", error.what());
  return 1;
}
