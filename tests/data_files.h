// Folders of data files made by the tests of data sets, and looking into texts of errors.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/random.h"
#include "program.h"

namespace dattn::test {

using ByteList = std::vector<std::uint8_t>;

/// A temporary folder of files made of bytes.
class DataFolder : public TemporaryFolder {
 public:
  /// Writes a file, in folders made for it.
  void write(const std::string& name, const ByteList& bytes) const;
  ByteList read(const std::string& name) const;
};

/// Whether `text` contains `part`; names both where it does not.
testing::AssertionResult contains(const std::string& text, const std::string& part);

/// `count` records of CIFAR: label bytes 0 for all but the last, which counts 0, 1, ... up to `classes`, and random
/// pixels.
ByteList cifar_records(int count, int label_bytes, int classes, std::uint32_t lane = 0);

/// The six files of CIFAR-10 with `count` images in each; `inside` is "" or the name of a folder with its slash.
void write_cifar10(const DataFolder& folder, const std::string& inside, int count);

enum class PictureFormat { png, jpeg, bmp };

/// A picture file of pixels [height,width,channels] that are smooth in x and y, the same for the same arguments.
ByteList picture_file(PictureFormat format, int height, int width, int channels = 3);

/// A picture file of these pixels.
ByteList encode_picture(PictureFormat format, int height, int width, int channels, const ByteList& pixels);

/// The bytes with one to four changes: a byte overwritten, some bytes cut out, repeated or cut off at the end.
ByteList mutated(ByteList bytes, Random& random);

}  // namespace dattn::test
