// CIFAR-10 and CIFAR-100 folders: what is read, every way they can be wrong, and changed files.
#include "datasets/cifar.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>

#include "data_files.h"
#include "error_text.h"
#include "small.h"

namespace dattn::test {

namespace {

namespace fs = std::filesystem;

// --- what is read ---

TEST(Cifar, RecordsBecomePixels) {
  DataFolder folder;
  write_cifar10(folder, "", 3);
  const DataSets data = load_data(folder.path());
  EXPECT_EQ(data.name, "cifar10");
  EXPECT_EQ(data.train.images.shape(), Shape({15, 32, 32, 3}));
  EXPECT_EQ(data.test.images.shape(), Shape({3, 32, 32, 3}));
  EXPECT_EQ(data.train.class_names[9], "truck");
  EXPECT_FLOAT_EQ(data.normalisation.mean[0], 0.4914f);
  EXPECT_FLOAT_EQ(data.normalisation.std[2], 0.2616f);

  const ByteList record = cifar_records(3, 1, 10, 2);  // data_batch_2.bin follows three images of the first
  const std::int64_t image = 4, y = 7, x = 30, c = 2;
  EXPECT_EQ(data.train.labels.data<std::int64_t>()[image], 1);
  EXPECT_EQ(data.train.images.data<std::uint8_t>()[((image * 32 + y) * 32 + x) * 3 + c],
            record[3073 + 1 + c * 1024 + y * 32 + x]);
}

TEST(Cifar, Cifar100TakesTheFineLabel) {
  DataFolder folder;
  folder.write("train.bin", cifar_records(120, 2, 100));
  folder.write("test.bin", cifar_records(2, 2, 100));
  const DataSets data = load_data(folder.path());
  EXPECT_EQ(data.name, "cifar100");
  ASSERT_EQ(data.train.classes(), 100);
  EXPECT_EQ(data.train.class_names[0], "apple");
  EXPECT_EQ(data.train.class_names[99], "worm");
  EXPECT_TRUE(std::ranges::is_sorted(data.train.class_names));
  EXPECT_EQ(data.train.labels.data<std::int64_t>()[99], 99);
  EXPECT_NEAR(data.normalisation.mean[1], 0.5, 0.01);  // random bytes
  EXPECT_NEAR(data.normalisation.std[1], 0.289, 0.01);
}

TEST(Cifar, TheArchivesParentWillDo) {
  DataFolder folder;
  write_cifar10(folder, "cifar-10-batches-bin/", 1);
  EXPECT_EQ(load_data(folder.path()).train.count(), 5);
}

TEST(Cifar, TheRealOne) {
  const char* named = std::getenv("DATTN_CIFAR10");
  const fs::path path = named ? fs::path(named) : fs::path(DATTN_SOURCE_DIR) / "../shared/cifar-10-batches-bin";
  if (!fs::exists(path)) GTEST_SKIP() << "no CIFAR-10 at " << path;
  const DataSets data = load_data(path.string());
  for (const auto& [set, each] : {std::pair{&data.train, 5000}, {&data.test, 1000}}) {
    std::array<int, 10> histogram{};
    for (const auto label : set->labels.values<std::int64_t>()) ++histogram[static_cast<std::size_t>(label)];
    for (const int count : histogram) EXPECT_EQ(count, each);
  }
  const Normalisation found = channel_statistics(data.train.images);
  for (std::size_t c = 0; c < 3; ++c) {
    EXPECT_NEAR(found.mean[c], data.normalisation.mean[c], 1e-4);
    EXPECT_NEAR(found.std[c], data.normalisation.std[c], 1e-4);
  }
}

// --- what is refused ---

TEST(Cifar, MissingFilesAreNamed) {
  DataFolder folder;
  write_cifar10(folder, "", 1);
  fs::remove(folder / "data_batch_4.bin");
  fs::remove(folder / "test_batch.bin");
  EXPECT_EQ(error_text([&] { load_data(folder.path()); }),
            "cifar10: " + folder.path() +
                ": expected data_batch_1.bin, data_batch_2.bin, data_batch_3.bin, data_batch_4.bin, data_batch_5.bin, "
                "test_batch.bin, missing data_batch_4.bin, test_batch.bin");
}

TEST(Cifar, WrongLengthsAreNamed) {
  DataFolder folder;
  write_cifar10(folder, "", 2);
  ByteList bytes = cifar_records(2, 1, 10);
  bytes.pop_back();
  folder.write("data_batch_3.bin", bytes);
  EXPECT_EQ(error_text([&] { load_data(folder.path()); }),
            "cifar10: " + folder.path() +
                "/data_batch_3.bin: expected whole records of 3073 bytes, "
                "found 6145 bytes: record 1 at byte 3073 has only 3072");
  folder.write("data_batch_3.bin", {});
  EXPECT_EQ(error_text([&] { load_data(folder.path()); }),
            "cifar10: " + folder.path() + "/data_batch_3.bin: expected records of 3073 bytes, found an empty file");
}

TEST(Cifar, LabelsOutOfRangeAreNamed) {
  DataFolder folder;
  write_cifar10(folder, "", 2);
  ByteList bytes = cifar_records(2, 1, 10);
  bytes[3073] = 10;
  folder.write("test_batch.bin", bytes);
  EXPECT_EQ(error_text([&] { load_data(folder.path()); }),
            "cifar10: " + folder.path() + "/test_batch.bin: record 1, byte 3073: expected a label of 0 to 9, found 10");
}

TEST(Cifar, BothLabelsOfCifar100AreChecked) {
  DataFolder folder;
  folder.write("test.bin", cifar_records(1, 2, 100));
  ByteList bytes = cifar_records(2, 2, 100);
  bytes[3074] = 20;
  folder.write("train.bin", bytes);
  EXPECT_TRUE(contains(error_text([&] { load_data(folder.path()); }),
                       "train.bin: record 1, byte 3074: expected a coarse label of 0 to 19, found 20"));
  bytes[3074] = 19;
  bytes[3075] = 100;
  folder.write("train.bin", bytes);
  EXPECT_TRUE(contains(error_text([&] { load_data(folder.path()); }),
                       "train.bin: record 1, byte 3075: expected a fine label of 0 to 99, found 100"));
}

TEST(Cifar, AFolderInAFilesPlace) {
  DataFolder folder;
  write_cifar10(folder, "", 1);
  fs::remove(folder / "test_batch.bin");
  fs::create_directory(folder / "test_batch.bin");
  EXPECT_TRUE(
      contains(error_text([&] { load_data(folder.path()); }), "test_batch.bin: expected a file, found something else"));
}

// --- sources ---

TEST(LoadData, SourcesThatAreNone) {
  DataFolder folder;
  EXPECT_EQ(error_text([] { load_data("no_such"); }),
            "data: expected a folder, `cifar10` or `synthetic`, got 'no_such', which is not there");
  EXPECT_TRUE(contains(error_text([&] { load_data(folder.path()); }), "found nothing"));
  folder.write("data_batch_1", {1, 2});
  folder.write("readme.html", {});
  const std::string text = error_text([&] { load_data(folder.path()); });
  EXPECT_TRUE(contains(text, "expected CIFAR-10 binary (data_batch_1.bin ... test_batch.bin), CIFAR-100 binary"));
  EXPECT_TRUE(contains(text, "found data_batch_1, readme.html"));
  EXPECT_TRUE(contains(error_text([&] { load_data(folder / "readme.html"); }), "which is a file"));
}

TEST(LoadData, ImagesOfAnotherSizeThanTheModels) {
  DataFolder folder;
  write_cifar10(folder, "", 1);
  EXPECT_EQ(error_text([&] { load_data(folder.path(), {.image_size = 64}); }),
            "data: cifar10 has images of 32x32, expected 64x64");
}

// --- changed files ---

TEST(Cifar, ChangedFilesLoadOrAreRefused) {
  DataFolder folder;
  folder.write("test.bin", cifar_records(1, 2, 100));
  const ByteList whole = cifar_records(2, 2, 100);
  Random random(1, Purpose::test);
  int refused = 0;
  const int count = rounds(2000);
  for (int i = 0; i < count; ++i) {
    folder.write("train.bin", mutated(whole, random));
    const std::string text = error_text([&] { load_cifar(CifarKind::cifar100, folder.path()); });
    refused += text != "no error";
    ASSERT_TRUE(text == "no error" || contains(text, "train.bin: "));
  }
  EXPECT_GT(refused, count / 2);  // most changes alter the length
}

// --- work on sets ---

TEST(ImageSets, HoldoutIsDisjointAndSeeded) {
  ImageSet set{Tensor::empty({50, 1, 1, 3}, Dtype::uint8), Tensor::empty({50}, Dtype::int64), {"a", "b"}};
  for (std::int64_t i = 0; i < 50; ++i) {
    set.labels.data<std::int64_t>()[i] = i % 2;
    for (std::int64_t c = 0; c < 3; ++c) set.images.data<std::uint8_t>()[3 * i + c] = static_cast<std::uint8_t>(i);
  }
  const auto indices = [](const ImageSet& part) {
    std::vector<int> found;
    for (std::int64_t i = 0; i < part.count(); ++i) {
      found.push_back(part.images.data<std::uint8_t>()[3 * i]);
      EXPECT_EQ(part.labels.data<std::int64_t>()[i], found.back() % 2);
    }
    EXPECT_TRUE(std::ranges::is_sorted(found));
    return found;
  };
  const auto [train, kept] = holdout(set, 20, 7);
  auto all = indices(train);
  const auto chosen = indices(kept);
  EXPECT_EQ(chosen.size(), 20u);
  EXPECT_EQ(indices(holdout(set, 20, 7).second), chosen);
  EXPECT_NE(indices(holdout(set, 20, 8).second), chosen);
  all.insert(all.end(), chosen.begin(), chosen.end());
  std::ranges::sort(all);
  for (int i = 0; i < 50; ++i) EXPECT_EQ(all[static_cast<std::size_t>(i)], i);
  EXPECT_EQ(error_text([&] { holdout(set, 50, 7); }), "holdout: expected 0 to 49 of the 50 training images, got 50");
}

TEST(ImageSets, DrawnImagesAreSeededAndOfEveryKind) {
  ImageSet set{Tensor::empty({50, 1, 1, 3}, Dtype::uint8), Tensor::zeros({50}, Dtype::int64), {"a"}};
  for (std::int64_t i = 0; i < 150; ++i) set.images.data<std::uint8_t>()[i] = static_cast<std::uint8_t>(i / 3);
  const auto indices = [&](std::int64_t count, std::uint64_t seed) {
    const Tensor drawn = draw_images(set, count, seed);
    std::vector<int> found;
    for (std::int64_t i = 0; i < drawn.size(0); ++i) found.push_back(drawn.data<std::uint8_t>()[3 * i]);
    std::ranges::sort(found);
    return found;
  };
  const auto some = indices(20, 7);
  EXPECT_EQ(some.size(), 20u);
  EXPECT_EQ(std::ranges::adjacent_find(some), some.end());  // none twice
  EXPECT_EQ(indices(20, 7), some);
  EXPECT_NE(indices(20, 8), some);
  const auto odd = std::ranges::count_if(some, [](int i) { return i % 2 == 1; });
  const auto late = std::ranges::count_if(some, [](int i) { return i >= 25; });
  EXPECT_TRUE(odd > 0 && odd < 20 && late > 0 && late < 20) << odd << " odd, " << late << " late";
  EXPECT_EQ(indices(60, 7).size(), 50u);
}

TEST(ImageSets, StatisticsOfAChannelThatNeverChanges) {
  Tensor images = Tensor::full({2, 2, 2, 3}, 51, Dtype::uint8);
  images.data<std::uint8_t>()[1] = 255;
  const Normalisation found = channel_statistics(images);
  EXPECT_FLOAT_EQ(found.mean[0], 0.2f);
  EXPECT_FLOAT_EQ(found.std[0], 1.0f / 255);
  EXPECT_FLOAT_EQ(found.mean[1], 0.3f);
  EXPECT_NEAR(found.std[1], std::sqrt(0.07), 1e-6);
}

}  // namespace

}  // namespace dattn::test
