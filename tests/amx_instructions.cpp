// Intel's "Software Developer's Manual": volume 1, chapter 18 (tiles), volume 2 (the instructions and their encoding).
#include "amx_instructions.h"

#if defined(__x86_64__) && defined(__linux__)

#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>

namespace dattn::test {

namespace {

using Byte = std::uint8_t;

// What the manual forbids: the processor would raise an exception. In a signal handler little else is allowed.
[[noreturn]] void forbidden(std::string_view what) {
  for (const std::string_view part : {std::string_view("AMX emulation: "), what, std::string_view("\n")}) {
    if (write(STDERR_FILENO, part.data(), part.size()) < 0) break;
  }
  std::abort();
}

void require(bool holds, const char* what) {
  if (!holds) forbidden(what);
}

// --- the state of a thread ---

struct Tile {
  int rows = 0, row_bytes = 0;  // as configured
  std::array<std::array<Byte, 64>, 16> data{};

  void clear() { data = {}; }
  template <typename T>
  T get(int row, int element) const {
    T value;
    std::memcpy(&value, data[static_cast<std::size_t>(row)].data() + element * static_cast<int>(sizeof(T)), sizeof(T));
    return value;
  }
};

struct Tiles {
  bool configured = false;
  std::array<Tile, 8> tile;

  Tile& at(int i) {
    require(configured, "a tile instruction before LDTILECFG");
    require(i < 8 && tile[static_cast<std::size_t>(i)].rows > 0, "a tile that is not configured");
    return tile[static_cast<std::size_t>(i)];
  }

  void configure(const Byte* operand) {
    const Byte palette = operand[0];
    require(palette == 1, "a palette other than 1");
    require(operand[1] == 0, "a start row in a new configuration");
    require(std::all_of(operand + 2, operand + 16, [](Byte b) { return b == 0; }), "reserved bytes that are not 0");
    for (std::size_t i = 0; i < 16; ++i) {
      std::uint16_t row_bytes;
      std::memcpy(&row_bytes, operand + 16 + 2 * i, sizeof row_bytes);
      const Byte rows = operand[48 + i];
      require(row_bytes <= 64 && rows <= 16, "a tile larger than 16 rows of 64 bytes");
      require((row_bytes == 0) == (rows == 0), "rows without bytes, or bytes without rows");
      require(i < 8 || rows == 0, "a ninth tile");
      if (i < 8) tile[i] = {rows, row_bytes, {}};
    }
    configured = true;
  }
};

thread_local Tiles tiles;
std::atomic<long> count{0};

// --- instructions ---

// TDPBF16PS: each float of c takes the products of the pairs of its row of a and its column of b.
void multiply(Tile& c, const Tile& a, const Tile& b) {
  require(c.rows == a.rows && c.row_bytes == b.row_bytes && a.row_bytes == 4 * b.rows, "tiles that do not fit");
  const auto number = [](const Tile& tile, int row, int element) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(tile.get<std::uint16_t>(row, element)) << 16);
  };
  for (int m = 0; m < c.rows; ++m) {
    for (int n = 0; n < c.row_bytes / 4; ++n) {
      float even = 0, odd = 0;
      for (int k = 0; k < b.rows; ++k) {
        even += number(a, m, 2 * k) * number(b, k, 2 * n);
        odd += number(a, m, 2 * k + 1) * number(b, k, 2 * n + 1);
      }
      const float sum = c.get<float>(m, n) + (even + odd);
      std::memcpy(c.data[static_cast<std::size_t>(m)].data() + 4 * n, &sum, sizeof sum);
    }
  }
}

void load(Tile& tile, const Byte* from, std::int64_t stride) {
  tile.clear();
  for (int row = 0; row < tile.rows; ++row) {
    std::memcpy(tile.data[static_cast<std::size_t>(row)].data(), from + row * stride,
                static_cast<std::size_t>(tile.row_bytes));
  }
}

void store(const Tile& tile, Byte* to, std::int64_t stride) {
  for (int row = 0; row < tile.rows; ++row) {
    std::memcpy(to + row * stride, tile.data[static_cast<std::size_t>(row)].data(),
                static_cast<std::size_t>(tile.row_bytes));
  }
}

// --- decoding ---

// Registers by the numbers that instructions give them.
constexpr int kRegisters[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

// A three-byte VEX instruction of the map 0F38 without immediates: C4, RXB and map, W vvvv L pp, opcode, ModRM,
// operand.
class Instruction {
 public:
  Instruction(const Byte* code, const gregset_t& registers) {
    if (code[0] != 0xC4 || (code[1] & 0x1F) != 2 || (code[2] & 0x84) != 0) return;  // map 0F38, W0, 128 bits
    known = true;
    prefix = code[2] & 3;
    opcode = code[3];
    second = ~(code[2] >> 3) & 15;
    const Byte modrm = code[4];
    memory = modrm >> 6 != 3;
    const auto extended = [&](int low, int bit) { return low | (~code[1] >> bit & 1) << 3; };
    reg = extended(modrm >> 3 & 7, 7);
    rm = extended(modrm & 7, 5);
    const Byte* next = code + 5;
    if (memory) decode_memory(modrm, extended, registers, next);
    length = next - code;
  }

  bool known = false, memory = false, has_index = false;
  int prefix = 0, opcode = 0, reg = 0, rm = 0, second = 0;
  std::int64_t length = 0, stride = 0;
  Byte* address = nullptr;  // without the index

 private:
  template <typename F>
  void decode_memory(Byte modrm, const F& extended, const gregset_t& registers, const Byte*& next) {
    const auto value = [&](int r) { return static_cast<std::int64_t>(registers[kRegisters[r]]); };
    const int mod = modrm >> 6;
    std::int64_t start = 0;
    bool without_base = mod == 0 && (modrm & 7) == 5;  // from the next instruction on
    const bool from_next = without_base;
    if ((modrm & 7) == 4) {
      const Byte sib = *next++;
      const int index = extended(sib >> 3 & 7, 6), base = extended(sib & 7, 5);
      has_index = true;
      stride = index == 4 ? 0 : value(index) << (sib >> 6);
      without_base = mod == 0 && (sib & 7) == 5;
      if (!without_base) start = value(base);
    } else if (!without_base) {
      start = value(rm);
    }
    if (mod == 1) start += static_cast<std::int8_t>(*next++);
    if (mod == 2 || without_base) {
      std::int32_t displacement;
      std::memcpy(&displacement, next, sizeof displacement);
      next += sizeof displacement;
      start += displacement;
    }
    if (from_next) start += static_cast<std::int64_t>(reinterpret_cast<std::intptr_t>(next));
    address = reinterpret_cast<Byte*>(start);
  }
};

// Does one instruction; false if it is none of AMX's.
bool perform(const Instruction& i) {
  constexpr int kNone = 0, k66 = 1, kF3 = 2, kF2 = 3, kConfigure = 0x49, kMove = 0x4B, kMultiply = 0x5C;
  if (i.opcode == kMultiply && i.prefix == kF3 && !i.memory) {  // TDPBF16PS
    require(i.reg != i.rm && i.reg != i.second && i.rm != i.second, "TDPBF16PS with one tile twice");
    multiply(tiles.at(i.reg), tiles.at(i.rm), tiles.at(i.second));
  } else if (i.opcode == kMove && i.memory && (i.prefix == kF2 || i.prefix == k66)) {  // TILELOADD, TILELOADDT1
    require(i.has_index, "a tile load without an index");
    load(tiles.at(i.reg), i.address, i.stride);
  } else if (i.opcode == kMove && i.memory && i.prefix == kF3) {  // TILESTORED
    require(i.has_index, "a tile store without an index");
    store(tiles.at(i.reg), i.address, i.stride);
  } else if (i.opcode == kConfigure && i.prefix == kF2 && !i.memory) {  // TILEZERO
    tiles.at(i.reg).clear();
  } else if (i.opcode == kConfigure && i.prefix == kNone && i.memory) {  // LDTILECFG
    tiles.configure(i.address + i.stride);
  } else if (i.opcode == kConfigure && i.prefix == kNone && !i.memory) {  // TILERELEASE
    tiles = {};
  } else {
    return false;
  }
  return true;
}

void on_illegal_instruction(int, siginfo_t*, void* context) {
  auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  const Instruction instruction(reinterpret_cast<const Byte*>(registers[REG_RIP]), registers);
  if (!instruction.known || !perform(instruction)) {
    signal(SIGILL, SIG_DFL);  // comes again, and ends the process
    return;
  }
  registers[REG_RIP] += instruction.length;
  ++count;
}

struct sigaction before;

}  // namespace

AmxInstructions::AmxInstructions() {
  use_tile_block(nullptr);
  function_ = fast_tile_block();
  if (function_ || !tile_block_amx) return;
  struct sigaction action {};
  action.sa_sigaction = on_illegal_instruction;
  action.sa_flags = SA_SIGINFO;
  emulates_ = sigaction(SIGILL, &action, &before) == 0;
  if (emulates_) function_ = tile_block_amx;
}

AmxInstructions::~AmxInstructions() {
  if (emulates_) sigaction(SIGILL, &before, nullptr);
}

long AmxInstructions::emulated() { return count; }

}  // namespace dattn::test

#else

namespace dattn::test {

AmxInstructions::AmxInstructions() = default;
AmxInstructions::~AmxInstructions() = default;
long AmxInstructions::emulated() { return 0; }

}  // namespace dattn::test

#endif
