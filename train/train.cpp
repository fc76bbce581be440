// The program `train`: trains a classifier and leaves checkpoints, metrics and a record of the run in a folder.
#include "core/output.h"
#include "train/options.h"
#include "train/trainer.h"

int main(int argc, char** argv) {
  return dattn::run_program("train", [&] {
    auto parsed = dattn::parse_train_options(argc, argv);
    return parsed.exit_code >= 0 ? parsed.exit_code : dattn::Trainer(parsed.options, parsed.given).run();
  });
}
