// Folders of images: what is read from PNG, JPEG and BMP, what is refused, and changed files by the thousand.
#include "datasets/image_folder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "data_files.h"
#include "datasets/picture.h"
#include "error_text.h"
#include "small.h"

namespace dattn::test {

namespace {

constexpr auto kFormats = {PictureFormat::png, PictureFormat::jpeg, PictureFormat::bmp};

Picture decode(const ByteList& bytes) {
  // A copy of exactly this size, so that the address sanitizer sees a read past its end.
  return decode_picture("x", ByteList(bytes.begin(), bytes.end()));
}
std::string refusal(const ByteList& bytes) {
  return error_text([&] { decode(bytes); });
}

void write_big(ByteList& bytes, std::size_t at, std::uint32_t value) {
  for (std::size_t i = 0; i < 4; ++i) bytes[at + i] = static_cast<std::uint8_t>(value >> (24 - 8 * i));
}
void write_little(ByteList& bytes, std::size_t at, std::uint32_t value) {
  for (std::size_t i = 0; i < 4; ++i) bytes[at + i] = static_cast<std::uint8_t>(value >> (8 * i));
}

/// Two classes, with 32x32 pictures in train/ and one each in `test`.
void write_folder(const DataFolder& folder, const std::string& test = "test") {
  folder.write("train/cat/b.png", picture_file(PictureFormat::png, 32, 32));
  folder.write("train/cat/a.jpg", picture_file(PictureFormat::jpeg, 40, 50));
  folder.write("train/ant/1.BMP", picture_file(PictureFormat::bmp, 10, 12));
  folder.write(test + "/cat/c.jpeg", picture_file(PictureFormat::jpeg, 32, 32));
  folder.write(test + "/ant/2.png", picture_file(PictureFormat::png, 32, 32, 1));
}

// --- one picture ---

TEST(Picture, EveryFormatGivesItsPixels) {
  Random random(2, Purpose::test);
  for (const int channels : {1, 2, 3, 4}) {
    ByteList pixels;
    for (int i = 0; i < 5 * 7 * channels; ++i) pixels.push_back(static_cast<std::uint8_t>(random.next_below(256)));
    for (const auto format : {PictureFormat::png, PictureFormat::bmp}) {
      if (format == PictureFormat::bmp && channels != 3) continue;
      const Picture picture = decode(encode_picture(format, 5, 7, channels, pixels));
      ASSERT_EQ(picture.height, 5);
      ASSERT_EQ(picture.width, 7);
      for (std::size_t p = 0; p < 35; ++p) {
        for (std::size_t c = 0; c < 3; ++c) {
          const std::size_t source = p * static_cast<std::size_t>(channels) + (channels < 3 ? 0 : c);
          ASSERT_EQ(picture.rgb[3 * p + c], pixels[source]) << channels << " channels, pixel " << p;
        }
      }
    }
  }
  // JPEG is close to a smooth picture.
  const Picture exact = decode(picture_file(PictureFormat::png, 32, 32)),
                jpeg = decode(picture_file(PictureFormat::jpeg, 32, 32));
  for (std::size_t i = 0; i < exact.rgb.size(); ++i) ASSERT_NEAR(jpeg.rgb[i], exact.rgb[i], 16);
}

TEST(Picture, ResizingKeepsTheSmoothAndAveragesTheFine) {
  const Picture smooth = decode(picture_file(PictureFormat::png, 64, 96));
  ByteList small(32 * 32 * 3);
  resize_picture(smooth, 32, small.data());
  for (std::size_t y = 2; y < 30; ++y) {
    for (std::size_t x = 2; x < 30; ++x) {
      const double there = smooth.rgb[((2 * y + 1) * 96 + 3 * x + 1) * 3];
      ASSERT_NEAR(small[(y * 32 + x) * 3], there, 8);
    }
  }
  Picture checks{64, 64, ByteList(64 * 64 * 3)};
  for (std::size_t p = 0; p < 64 * 64; ++p)
    std::fill_n(checks.rgb.begin() + static_cast<std::ptrdiff_t>(3 * p), 3, (p / 64 + p % 64) % 2 * 255);
  resize_picture(checks, 32, small.data());
  for (std::size_t y = 1; y < 31; ++y) {
    for (std::size_t x = 1; x < 31; ++x) ASSERT_NEAR(small[(y * 32 + x) * 3], 127, 2);
  }

  // Every size from and to which pictures go, whatever the sides: a constant stays itself.
  for (const std::int64_t height : {1, 2, 31, 33, 200}) {
    for (const std::int64_t width : {1, 3, 32, 77}) {
      for (const std::int64_t size : {1, 2, 32, 45}) {
        const Picture flat{height, width, ByteList(static_cast<std::size_t>(height * width * 3), 77)};
        ByteList out(static_cast<std::size_t>(size * size * 3));
        resize_picture(flat, size, out.data());
        EXPECT_TRUE(std::ranges::all_of(out, [](int v) { return v == 77; }))
            << height << "x" << width << " to " << size;
      }
    }
  }
}

// A BMP of 2 x 1 pixels, eight bits each, whose palette has two colours, white and red.
ByteList palette_bmp(std::uint8_t left, std::uint8_t right) {
  ByteList bmp(54 + 8 + 4);
  bmp[0] = 'B', bmp[1] = 'M';
  const std::pair<std::size_t, std::uint32_t> fields[] = {
      {2, 66}, {10, 62}, {14, 40}, {18, 2}, {22, 1}, {26, 1 | 8 << 16}, {46, 2}, {54, 0xFFFFFF}, {58, 0xFF0000}};
  for (const auto& [at, value] : fields) write_little(bmp, at, value);
  bmp[62] = left, bmp[63] = right;
  return bmp;
}

TEST(Picture, IndicesBeyondAPaletteAreRefused) {
  EXPECT_EQ(decode(palette_bmp(0, 1)).rgb, (ByteList{255, 255, 255, 255, 0, 0}));
  EXPECT_EQ(refusal(palette_bmp(1, 2)), "image: x: byte 63: expected an index into the 2 colours of a BMP, found 2");
}

// A PNG of 2 x 1 pixels, eight bits each, with a palette of these bytes.
ByteList palette_png(const ByteList& palette, std::uint8_t left, std::uint8_t right) {
  ByteList png{0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
  const auto put = [&](std::uint32_t value) {
    for (int shift = 24; shift >= 0; shift -= 8) png.push_back(static_cast<std::uint8_t>(value >> shift));
  };
  const auto chunk = [&](const std::string& type, const ByteList& content) {
    put(static_cast<std::uint32_t>(content.size()));
    const auto begin = static_cast<std::ptrdiff_t>(png.size());
    png.insert(png.end(), type.begin(), type.end());
    png.insert(png.end(), content.begin(), content.end());
    std::uint32_t sum = ~0u;
    for (auto byte = png.begin() + begin; byte != png.end(); ++byte) {
      sum ^= *byte;
      for (int bit = 0; bit < 8; ++bit) sum = sum >> 1 ^ (sum & 1 ? 0xEDB88320u : 0);
    }
    put(~sum);
  };
  chunk("IHDR", {0, 0, 0, 2, 0, 0, 0, 1, 8, 3, 0, 0, 0});
  chunk("PLTE", palette);
  chunk("IDAT",
        {0x78, 1, 1, 3, 0, 0xfc, 0xff, 0, left, right, 0, 0, 0, 0});  // one stored block: no filter, two indices
  chunk("IEND", {});
  return png;
}

TEST(Picture, IndicesBeyondThePaletteOfAPngAreBlack) {
  const ByteList colours{1, 2, 3, 250, 251, 252};
  EXPECT_EQ(decode(palette_png(colours, 1, 0)).rgb, (ByteList{250, 251, 252, 1, 2, 3}));
  for (const std::uint8_t beyond : {2, 100, 255}) {
    EXPECT_EQ(decode(palette_png(colours, beyond, 1)).rgb, (ByteList{0, 0, 0, 250, 251, 252}));
  }
  EXPECT_NE(refusal(palette_png({1, 2, 3, 4}, 0, 0)), "no error");  // one colour and a third
}

TEST(Picture, OtherFilesAreRefused) {
  EXPECT_EQ(refusal({}), "image: x: byte 0: expected a PNG, JPEG or BMP file, found an empty file");
  EXPECT_EQ(refusal({'G', 'I', 'F', '8'}), "image: x: byte 0: expected a PNG, JPEG or BMP file, found 47 49 46 38");
}

TEST(Picture, NoBeginningOfAPictureIsTakenForAWholeOne) {
  for (const auto format : kFormats) {
    const ByteList whole = picture_file(format, 9, 13);
    EXPECT_EQ(refusal(whole), "no error");
    for (std::size_t length = 0; length < whole.size(); ++length) {
      ASSERT_TRUE(contains(refusal(ByteList(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length))),
                           "image: x: byte "))
          << "format " << static_cast<int>(format) << ", " << length << " of " << whole.size() << " bytes";
    }
    ByteList longer = whole;
    longer.insert(longer.end(), 100, 0);
    EXPECT_EQ(refusal(longer), "no error");  // what follows the picture is not its own
  }
}

TEST(Picture, EveryChangedBitOfAPngIsSeen) {
  const ByteList whole = picture_file(PictureFormat::png, 6, 5);
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (const int bit : {0, 7}) {
      ByteList changed = whole;
      changed[at] ^= static_cast<std::uint8_t>(1 << bit);
      ASSERT_NE(refusal(changed), "no error") << "byte " << at;
    }
  }
  ByteList changed = whole;
  changed[20] ^= 1;
  EXPECT_TRUE(contains(refusal(changed), "image: x: byte 29: expected the check sum ")) << refusal(changed);
}

TEST(Picture, HugeSizesAreRefusedBeforeAnythingIsAllocated) {
  ByteList bmp = picture_file(PictureFormat::bmp, 4, 4);
  write_little(bmp, 18, 1000000);
  EXPECT_EQ(
      refusal(bmp),
      "image: x: byte 18: expected a width and a height of 1 to 16384 and at most 33554432 pixels, found 1000000 x 4");
  write_little(bmp, 18, 0x80000000u);
  write_little(bmp, 22, 0x80000000u);
  EXPECT_TRUE(contains(refusal(bmp), "found -2147483648 x 2147483648"));

  ByteList jpeg = picture_file(PictureFormat::jpeg, 8, 8);
  const ByteList frame{0xFF, 0xC0};
  const auto at = std::ranges::search(jpeg, frame).begin();
  std::fill_n(at + 5, 4, std::uint8_t{0xFF});
  EXPECT_TRUE(contains(refusal(jpeg), "found 65535 x 65535"));

  ByteList png = picture_file(PictureFormat::png, 4, 4);
  write_big(png, 16, 20000);
  write_big(png, 29, 0);
  EXPECT_TRUE(contains(refusal(png), "expected the check sum"));  // the sum is looked at first
}

TEST(Picture, ChangedFilesDecodeOrAreRefused) {
  for (const auto format : kFormats) {
    const ByteList whole = picture_file(format, 24, 19);
    Random random(6, Purpose::test, 0, static_cast<std::uint32_t>(format));
    const int count = rounds(4000);
    for (int i = 0; i < count; ++i) {
      const ByteList bytes = mutated(whole, random);
      const std::string text = refusal(bytes);
      ASSERT_TRUE(text == "no error" || contains(text, "image: x: "));
    }
  }
}

/// A PNG whose chunks' check sums are right whatever their contents became.
ByteList with_right_sums(ByteList png) {
  for (std::size_t at = 8; at + 12 <= png.size();) {
    const std::size_t length = (static_cast<std::size_t>(png[at + 2]) << 8) + png[at + 3];
    if (png[at] || png[at + 1] || at + 12 + length > png.size()) break;
    // The refusal tells the sum that it found.
    const std::string text = refusal(png), mark = "byte " + std::to_string(at + 8 + length) + ":";
    if (const auto found = text.find("found "); text.find(mark) != std::string::npos && found != std::string::npos) {
      write_big(png, at + 8 + length, static_cast<std::uint32_t>(std::stoul(text.substr(found + 6), nullptr, 16)));
    }
    at += length + 12;
  }
  return png;
}

TEST(Picture, ChangedPngsWithRightCheckSumsDecodeOrAreRefused) {
  for (const int channels : {1, 3, 4}) {
    const ByteList whole = picture_file(PictureFormat::png, 11, 17, channels);
    Random random(7, Purpose::test, 0, static_cast<std::uint32_t>(channels));
    int decoded = 0;
    const int count = rounds(10'000);
    for (int i = 0; i < count; ++i) {
      ByteList bytes = whole;
      for (auto changes = 1 + random.next_below(3); changes > 0; --changes) {
        // Anywhere but in the lengths and names of chunks: header, colour depth, the deflated rows.
        const auto in_header = random.next_below(2) == 0;
        const auto at = in_header ? 16 + random.next_below(13) : 41 + random.next_below(bytes.size() - 41 - 16);
        bytes[at] = static_cast<std::uint8_t>(in_header ? random.next_below(20) : random.next_below(256));
      }
      decoded += refusal(with_right_sums(bytes)) == "no error";
    }
    EXPECT_GT(decoded, 0);
  }
}

// --- folders ---

TEST(ImageFolder, ClassesAndImagesInTheOrderOfTheirNames) {
  for (const std::string test : {"test", "val"}) {
    DataFolder folder;
    write_folder(folder, test);
    folder.write("train/.hidden", {1});
    folder.write("train/cat/.hidden.png", {1});
    const DataSets data = load_data(folder.path() + "/");
    EXPECT_EQ(data.train.class_names, (std::vector<std::string>{"ant", "cat"}));
    EXPECT_EQ(data.train.images.shape(), Shape({3, 32, 32, 3}));
    EXPECT_EQ(data.test.images.shape(), Shape({2, 32, 32, 3}));
    EXPECT_EQ(data.train.labels.at(0) + 2 * data.train.labels.at(1) + 4 * data.train.labels.at(2), 6);
    // Of the model's size already: byte for byte.
    const Picture b = decode(picture_file(PictureFormat::png, 32, 32));
    EXPECT_TRUE(std::ranges::equal(b.rgb, data.train.images.slice(2, 3).values<std::uint8_t>()));
    const auto grey = data.test.images.values<std::uint8_t>();
    EXPECT_EQ(grey[0], grey[1]);
    const Normalisation found = channel_statistics(data.train.images);
    EXPECT_EQ(found.mean, data.normalisation.mean);
  }
}

TEST(ImageFolder, ImagesOfAnotherSize) {
  DataFolder folder;
  write_folder(folder);
  EXPECT_EQ(load_data(folder.path(), {.image_size = 48}).train.images.shape(), Shape({3, 48, 48, 3}));
  EXPECT_EQ(error_text([&] { load_data(folder.path(), {.image_size = 0}); }),
            "image_folder: expected an image size of 1 to 1024, got 0");
}

TEST(ImageFolder, WhatIsMissingOrTooMuchIsNamed) {
  const auto refused = [](const std::function<void(const DataFolder&)>& change) {
    DataFolder folder;
    write_folder(folder);
    change(folder);
    std::string text = error_text([&] { load_data(folder.path()); });
    for (auto at = text.find(folder.path()); at != std::string::npos; at = text.find(folder.path())) {
      text.replace(at, folder.path().size(), "DIR");
    }
    return text;
  };
  namespace fs = std::filesystem;
  EXPECT_EQ(refused([](auto& f) { fs::remove_all(f / "train"); }),
            "image_folder: DIR: expected train/ inside, found none");
  EXPECT_EQ(refused([](auto& f) { fs::remove_all(f / "test"); }),
            "image_folder: DIR: expected test/ or val/ inside, found neither");
  EXPECT_EQ(refused([](auto& f) { fs::remove_all(f / "test/ant"); }),
            "image_folder: DIR/test: expected the classes of train/ (ant, cat), found cat");
  EXPECT_EQ(refused([](auto& f) { fs::create_directories(f / "test/bee"); }),
            "image_folder: DIR/test: expected the classes of train/ (ant, cat), found ant, bee, cat");
  EXPECT_EQ(refused([](auto& f) { fs::remove(f / "train/ant/1.BMP"); }),
            "image_folder: DIR/train/ant: expected images, found none");
  EXPECT_EQ(refused([](auto& f) { f.write("train/labels.csv", {1}); }),
            "image_folder: DIR/train: expected folders only, one for each class, found 'labels.csv'");
  EXPECT_EQ(refused([](auto& f) { f.write("train/cat/notes.txt", {1}); }),
            "image_folder: DIR/train/cat: expected .png, .jpg, .jpeg and .bmp files only, found 'notes.txt'");
  EXPECT_EQ(refused([](auto& f) { f.write("train/cat/more/a.png", {1}); }),
            "image_folder: DIR/train/cat: expected .png, .jpg, .jpeg and .bmp files only, found 'more'");
  EXPECT_EQ(refused([](auto& f) { f.write("test/cat/z.png", {}); }),
            "image: DIR/test/cat/z.png: byte 0: expected a PNG, JPEG or BMP file, found an empty file");
  EXPECT_EQ(refused([](auto& f) {
              ByteList png = f.read("train/cat/b.png");
              png.resize(100);
              f.write("train/cat/b.png", png);
            }),
            "image: DIR/train/cat/b.png: byte 41: expected a PNG chunk and its check sum (2756 bytes), found the end "
            "of the file "
            "at byte 100");
}

}  // namespace

}  // namespace dattn::test
