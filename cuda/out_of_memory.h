// What is thrown where the device's memory is too small.
#pragma once

#include <string>

#include "core/error.h"

namespace dattn::cuda {

class OutOfMemory : public Error {
 public:
  explicit OutOfMemory(const std::string& found) : Error(found + "\nhint: try a smaller batch size"), shortage(found) {}

  std::string shortage;  ///< how much is needed, and free; for callers that know the batch size
};

}  // namespace dattn::cuda
