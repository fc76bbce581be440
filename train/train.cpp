// The program `train`: trains a classifier and leaves checkpoints, metrics and a record of the run in a folder.
#include <cstdio>
#include <exception>

#include "core/output.h"
#include "train/options.h"
#include "train/trainer.h"

int main(int argc, char** argv) try {
  auto parsed = dattn::parse_train_options(argc, argv);
  if (parsed.exit_code >= 0) return parsed.exit_code;
  const int status = dattn::Trainer(parsed.options, parsed.given).run();
  dattn::flush_output();
  return status;
} catch (const std::exception& error) {
  std::fflush(stdout);
  fmt::print(stderr, "train: {}\n", error.what());
  return 1;
}
