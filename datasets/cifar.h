// CIFAR-10 and CIFAR-100 in the binary version of https://www.cs.toronto.edu/~kriz/cifar.html: a record is one label
// byte (CIFAR-100: two, coarse and fine) and 3072 pixel bytes, three planes (red, green, blue) of 32 rows of 32.
#pragma once

#include <filesystem>
#include <optional>

#include "datasets/images.h"

namespace dattn {

enum class CifarKind { cifar10, cifar100 };

/// Which of the two `folder` holds, by the names of its files; nothing where it holds neither.
std::optional<CifarKind> recognise_cifar(const std::filesystem::path& folder);

/// Reads data_batch_1..5.bin and test_batch.bin (CIFAR-10), or train.bin and test.bin (CIFAR-100, fine labels). A file
/// holds any whole number of records from 1. Error: a missing file, a wrong length, a label out of range, with file,
/// byte, expected, found.
DataSets load_cifar(CifarKind kind, const std::filesystem::path& folder);

}  // namespace dattn
