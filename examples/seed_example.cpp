// DAttention on a random image of shape (N, C, H, W) = (1, 64, 32, 32), with its parameters and its multiply-adds
// counted beside plain self-attention's.
#include <span>
#include <string>

#include "core/ops.h"
#include "core/output.h"
#include "layers/dattention.h"
#include "layers/self_attention.h"

using namespace dattn;

namespace {

constexpr std::int64_t kChannels = 64, kSize = 32;

Tensor random_image(const Shape& shape) {
  Random random(1, Purpose::test);
  Tensor x = Tensor::empty(shape);
  for (float& value : std::span(x.data<float>(), static_cast<std::size_t>(x.elements()))) {
    value = static_cast<float>(random.next_normal());
  }
  return x;
}

std::string with_commas(std::int64_t n) {
  const std::string digits = std::to_string(n);
  std::string text;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

std::int64_t parameters_of(const DAttentionOptions& options) {
  Random random(1, Purpose::init);
  DAttention attention(options, random);
  return parameter_count(attention);
}

// --- parameters ---

void print_parameters() {
  const DAttentionOptions dwc{.channel = kChannels, .q_h = kSize, .q_w = kSize};
  DAttentionOptions none = dwc, table = dwc, fixed = dwc;
  none.use_pe = false;
  table.dwc_pe = false;
  fixed.dwc_pe = false, fixed.fixed_pe = true;
  Random random(1, Purpose::init);
  SelfAttention self(kChannels, 8, random);
  const std::int64_t without = parameters_of(none);
  print_output("\nParameters\n");
  print_output("  {:<40} {:>10}\n", "DAttention", with_commas(parameters_of(dwc)));
  print_output("  {:<40} {:>10}\n", "plain self-attention", with_commas(parameter_count(self)));
  print_output("  {:<40} {:>10}\n", "its encoding alone, convolution", with_commas(parameters_of(dwc) - without));
  print_output("  {:<40} {:>10}\n", "  or relative table (dwc_pe = false)",
               with_commas(parameters_of(table) - without));
  print_output("  {:<40} {:>10}\n", "  or fixed table (fixed_pe = true)", with_commas(parameters_of(fixed) - without));
}

// --- multiply-adds (docs/dattention.md, "Cost") ---

std::int64_t self_attention_products(std::int64_t pixels) {
  return 4 * pixels * kChannels * kChannels + 2 * pixels * pixels * kChannels;
}

std::int64_t dattention_products(std::int64_t pixels, std::int64_t samples, std::int64_t ksize) {
  const std::int64_t projections = 2 * (pixels + samples) * kChannels * kChannels;
  const std::int64_t scores_and_mix = 2 * pixels * samples * kChannels;
  const std::int64_t sampling = 4 * samples * kChannels, offsets = (ksize * ksize + 2) * samples * kChannels;
  const std::int64_t encoding = 9 * pixels * kChannels;
  return projections + scores_and_mix + sampling + offsets + encoding;
}

void print_products(std::int64_t size) {
  const DAttentionOptions options{.channel = kChannels, .q_h = size, .q_w = size};
  const std::int64_t pixels = size * size, plain = self_attention_products(pixels);
  const auto row = [&](const std::string& label, std::int64_t samples, std::int64_t products) {
    print_output("  {:<22} {:>10} {:>20} {:>10.5f}\n", label, with_commas(samples), with_commas(products),
                 static_cast<double>(products) / static_cast<double>(plain));
  };
  print_output("\nMultiply-adds on a map of {0} x {0} pixels and {1} channels, ksize {2}\n", size, kChannels,
               options.ksize);
  print_output("  {:<22} {:>10} {:>20} {:>10}\n", "", "samples", "multiply-adds", "of plain's");
  row("plain self-attention", pixels, plain);
  for (const std::int64_t stride : {1, 2, 4, 8}) {
    const std::int64_t samples = pixels / (stride * stride);
    row(fmt::format("DAttention, stride {}", stride), samples, dattention_products(pixels, samples, options.ksize));
  }
}

int run() {
  Random random(1, Purpose::init);
  const DAttention attention(
      {.channel = kChannels, .q_h = kSize, .q_w = kSize, .n_heads = 8, .n_groups = 4, .stride = 1}, random);
  const Tensor x = random_image({1, kChannels, kSize, kSize});  // N,C,H,W
  const Tensor y = to_nchw(attention(from_nchw(x)));
  print_output("Output (N, C, H, W): [{}, {}, {}, {}]\n", y.size(0), y.size(1), y.size(2), y.size(3));
  print_parameters();
  print_products(32);
  print_products(1024);
  print_output(
      "\nAt stride 1 DAttention costs a little more than plain self-attention: groups share out the channels and save "
      "nothing.\n"
      "What saves is the stride, by its square, because queries then look at stride^2 times fewer samples.\n");
  return 0;
}

}  // namespace

int main() { return run_program("seed_example", run); }
