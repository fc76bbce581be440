// The loader: orders, places, both kinds of buffers, and what goes wrong in its thread.
#include "datasets/loader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "core/parallel.h"
#include "data_files.h"
#include "error_text.h"

namespace dattn::test {

namespace {

constexpr std::int64_t kImages = 23, kSide = 6;

/// Random images, each of which shows its index in its first pixel.
ImageSet some_images() {
  ImageSet set{
      Tensor::empty({kImages, kSide, kSide, 3}, Dtype::uint8), Tensor::empty({kImages}, Dtype::int64), {"a", "b", "c"}};
  Random random(3, Purpose::test);
  for (std::int64_t i = 0; i < set.images.elements(); ++i) {
    set.images.data<std::uint8_t>()[i] = static_cast<std::uint8_t>(random.next_below(256));
  }
  for (std::int64_t i = 0; i < kImages; ++i) {
    set.images.data<std::uint8_t>()[i * kSide * kSide * 3] = static_cast<std::uint8_t>(i);
    set.labels.data<std::int64_t>()[i] = i % 3;
  }
  return set;
}

/// Pixels as they are, 0..255.
constexpr Normalisation kPlain{{0, 0, 0}, {1.0f / 255, 1.0f / 255, 1.0f / 255}};

std::vector<int> indices(const Batch& batch) {
  std::vector<int> found;
  for (std::int64_t i = 0; i < batch.images.size(0); ++i) {
    found.push_back(static_cast<int>(std::lround(batch.images.at(i * kSide * kSide * 3))));
    EXPECT_EQ(batch.labels.at(i), found.back() % 3);
  }
  return found;
}

AugmentOptions everything() { return {.translate = 2, .flip = Flip::random, .cutout = 3, .mixup = 0.4}; }

struct Copy {
  Tensor images, labels, targets;
  Place place;
};
Copy copy_of(const Batch& batch) {
  return {batch.images.clone(), batch.labels.clone(), batch.targets ? batch.targets.clone() : Tensor(), batch.place};
}
void expect_same(const Copy& a, const Copy& b) {
  EXPECT_EQ(a.place, b.place);
  ASSERT_EQ(a.images.shape(), b.images.shape());
  EXPECT_EQ(std::memcmp(a.images.raw(), b.images.raw(), a.images.bytes()), 0);
  EXPECT_EQ(std::memcmp(a.labels.raw(), b.labels.raw(), a.labels.bytes()), 0);
  ASSERT_EQ(a.targets.defined(), b.targets.defined());
  if (a.targets) {
    EXPECT_EQ(std::memcmp(a.targets.raw(), b.targets.raw(), a.targets.bytes()), 0);
  }
}

TEST(Loader, EvaluationGivesEveryImageOnceInOrder) {
  for (const bool prefetch : {false, true}) {
    Loader loader(some_images(), kPlain, {.batch_size = 8, .prefetch = prefetch});
    ASSERT_EQ(loader.batches_per_epoch(), 3);
    std::vector<int> seen;
    for (std::int64_t i = 0; i < 3; ++i) {
      EXPECT_EQ(loader.place(), (Place{0, i}));
      const Batch& batch = loader.next();
      EXPECT_EQ(batch.place, (Place{0, i}));
      EXPECT_EQ(batch.images.size(0), i == 2 ? 7 : 8);
      EXPECT_FALSE(batch.targets.defined());
      const auto found = indices(batch);
      seen.insert(seen.end(), found.begin(), found.end());
    }
    for (int i = 0; i < kImages; ++i) EXPECT_EQ(seen[static_cast<std::size_t>(i)], i);
    EXPECT_EQ(loader.place(), (Place{1, 0}));
  }
}

TEST(Loader, TrainingShufflesAnewEachEpochAndDropsTheRest) {
  Loader loader(some_images(), kPlain, training_options(5, 9));
  ASSERT_EQ(loader.batches_per_epoch(), 4);
  std::set<std::vector<int>> orders;
  for (int epoch = 0; epoch < 3; ++epoch) {
    std::vector<int> seen;
    for (int i = 0; i < 4; ++i) {
      const auto found = indices(loader.next());
      seen.insert(seen.end(), found.begin(), found.end());
    }
    EXPECT_EQ(std::set<int>(seen.begin(), seen.end()).size(), 20u);
    orders.insert(seen);
  }
  EXPECT_EQ(orders.size(), 3u);
  Loader same(some_images(), kPlain, training_options(5, 9)), other(some_images(), kPlain, training_options(5, 10));
  std::vector<int> first = indices(same.next());
  EXPECT_TRUE(std::ranges::any_of(
      orders, [&](const auto& order) { return std::equal(first.begin(), first.end(), order.begin()); }));
  EXPECT_NE(indices(other.next()), first);
}

TEST(Loader, ABatchDependsOnItsPlaceAlone) {
  std::vector<Copy> reference;
  const auto options = [](bool prefetch) {
    LoaderOptions o = training_options(4, 2, everything());
    o.prefetch = prefetch;
    return o;
  };
  const int threads = thread_count();
  set_thread_count(1);
  Loader plain(some_images(), kPlain, options(false));
  for (int i = 0; i < 12; ++i) reference.push_back(copy_of(plain.next()));
  set_thread_count(3);
  for (const bool prefetch : {false, true}) {
    Loader loader(some_images(), kPlain, options(prefetch));
    for (const auto& batch : reference) expect_same(copy_of(loader.next()), batch);
    // As after a resume, to any place and back.
    for (const std::size_t i : {7u, 3u, 3u, 11u, 0u}) {
      loader.seek(reference[i].place);
      EXPECT_EQ(loader.place(), reference[i].place);
      expect_same(copy_of(loader.next()), reference[i]);
    }
  }
  set_thread_count(threads);
}

TEST(Loader, TensorsThatAreKeptStayAsTheyAre) {
  Loader loader(some_images(), kPlain, training_options(4, 2));
  const Tensor kept = loader.next().images;
  const Tensor as_it_was = kept.clone();
  for (int i = 0; i < 6; ++i) loader.next();
  EXPECT_EQ(std::memcmp(kept.raw(), as_it_was.raw(), kept.bytes()), 0);
}

TEST(Loader, ASteadyLoopReusesItsTwoBuffers) {
  Loader loader(some_images(), kPlain, training_options(4, 2, everything()));
  std::set<const void*> places;
  for (int i = 0; i < 4; ++i) places.insert(loader.next().images.raw());
  EXPECT_EQ(places.size(), 2u);
  const auto before = pool::statistics();
  for (int i = 0; i < 50; ++i) EXPECT_TRUE(places.contains(loader.next().images.raw()));
  EXPECT_EQ(pool::statistics().in_use, before.in_use);
}

TEST(Loader, ErrorsOfTheThreadReachTheCaller) {
  ImageSet set = some_images();
  Loader loader(set, kPlain, {.batch_size = 8});
  set.labels.data<std::int64_t>()[9] = 3;
  EXPECT_EQ(indices(loader.next()).size(), 8u);
  for (int again = 0; again < 2; ++again) {
    EXPECT_EQ(error_text([&] { loader.next(); }), "data: image 9: expected a label of 0 to 2, found 3");
    EXPECT_EQ(loader.place(), (Place{0, 1}));
  }
  loader.seek({0, 2});
  EXPECT_EQ(indices(loader.next()).front(), 16);
}

TEST(Loader, WrongUseIsRefused) {
  const ImageSet set = some_images();
  EXPECT_EQ(error_text([&] { Loader(set, kPlain, {.batch_size = 0}); }),
            "loader: expected a batch size of at least 1, got 0");
  EXPECT_EQ(error_text([&] { Loader(set, kPlain, training_options(24, 0)); }),
            "loader: a batch of 24 images needs as many, the set has 23");
  EXPECT_EQ(error_text([&] { Loader(set, kPlain, training_options(4, 0, {.translate = 6})); }),
            "augment: translate expects 0 to 5 pixels for images of 6x6 (reflection needs a pixel to mirror), got 6");
  Loader loader(set, kPlain, training_options(4, 0));
  EXPECT_EQ(error_text([&] {
              loader.seek({0, 5});
            }),
            "loader: expected an epoch from 0 and a batch of 0 to 4, got epoch 0, batch 5");
  const ImageSet fewer{set.images.slice(0, 5), set.labels, set.class_names};
  EXPECT_EQ(error_text([&] { Loader(fewer, kPlain, {.batch_size = 1}); }),
            "loader: expected images [23,H,W,3] for 23 labels, got [5,6,6,3]");
}

TEST(SerialScopeTest, LoopsRunInTheirOwnThread) {
  const int threads = thread_count();
  set_thread_count(4);
  {
    const SerialScope serial;
    const auto caller = std::this_thread::get_id();
    int tiles = 0;
    parallel_for(100, 10, [&](std::int64_t, std::int64_t) {
      EXPECT_EQ(std::this_thread::get_id(), caller);
      ++tiles;
    });
    EXPECT_EQ(tiles, 10);
  }
  set_thread_count(threads);
}

}  // namespace

}  // namespace dattn::test
