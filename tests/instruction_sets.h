// Runs a test with each instruction set that the kernels are compiled for and this processor has.
#pragma once

#include <gtest/gtest.h>

#include "hwy/highway.h"

namespace dattn::test {

template <typename F>
void on_every_instruction_set(F&& f) {
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::GetChosenTarget().Update(target);
    f();
  }
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace dattn::test
