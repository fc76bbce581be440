// Rows of tables: checks and CPU kernels.
#include "core/rows.h"

#include <algorithm>
#include <cstring>

namespace dattn {

namespace {

void take_row_cpu(const Tensor& table, const Tensor& index, Tensor& y) {
  check_row(table, index, y);
  const std::int64_t row = *index.data<std::int64_t>();
  check(row >= 0 && row < table.size(0), "take_row: no row {} in {}", row, table.shape());
  std::memcpy(y.raw(), table.raw() + static_cast<std::size_t>(row) * y.bytes(), y.bytes());
}

void advance_cpu(Tensor& index) { ++*index.data<std::int64_t>(); }

}  // namespace

constinit Kernel<void(const Tensor&, const Tensor&, Tensor&)> take_row{"take_row", take_row_cpu, Bfloat16::native};
constinit Kernel<void(Tensor&)> advance{"advance", advance_cpu};

void check_row(const Tensor& table, const Tensor& index, const Tensor& y) {
  const Shape &rows = table.shape(), &row = y.shape();
  const bool fits = rows.rank() == row.rank() + 1 && std::equal(row.begin(), row.end(), rows.begin() + 1);
  if (!fits || y.dtype() != table.dtype() || index.dtype() != Dtype::int64 || index.elements() != 1) {
    fail("take_row: expected a table [R, ...], an index int64 [] and y like one row ({}, {}, {})",
         describe("table", table), describe("index", index), describe("y", y));
  }
  check(index.device() == table.device() && y.device() == table.device(),
        "take_row: expected all on {}, the index is on {}, y on {}", name(table.device()), name(index.device()),
        name(y.device()));
}

}  // namespace dattn
