// The program `train`: trains a classifier and leaves checkpoints, metrics and a record of the run in a folder.
#include <cstdio>
#include <exception>

#include "core/output.h"
#include "train/options.h"
#include "train/trainer.h"

int main(int argc, char** argv) try {
  auto parsed = dattn::parse_train_options(argc, argv);
  const int status = parsed.exit_code >= 0 ? parsed.exit_code : dattn::Trainer(parsed.options, parsed.given).run();
  dattn::flush_output();
  return status;
} catch (const std::exception& error) {
  std::fflush(stdout);
  fmt::print(stderr, "train: {}\n", error.what());
  return 1;
}
