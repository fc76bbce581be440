// Cases of core/ops.
#include "core/ops.h"
#include "op_cases.h"

namespace dattn::test {

std::vector<OpCase> basic_cases() {
  return {
      {"add", [] {
         return OpInstance{{{"a", normal({3, 5, 7}, 1)}, {"b", normal({3, 5, 7}, 2)}}, {},
                           [](std::span<const Tensor> in) { return add(in[0], in[1]); }, {}};
       }},
      {"add_fan_in", [] {
         return OpInstance{{{"x", normal({5, 3}, 1)}}, {}, [](std::span<const Tensor> in) { return add(in[0], add(in[0], in[0])); }, {}};
       }},
      {"reshape", [] {
         return OpInstance{{{"x", normal({2, 3, 5}, 1)}}, {}, [](std::span<const Tensor> in) { return reshape(in[0], {5, 6}); }, {}};
       }},
  };
}

}  // namespace dattn::test
