// Printing of modules.
#include "layers/module.h"

#include <algorithm>

namespace dattn {

std::string summary(const std::vector<NamedParameter>& parameters, const std::vector<NamedTensor>& buffers) {
  std::size_t width = 5;
  for (const auto& p : parameters) width = std::max(width, p.name.size());
  for (const auto& b : buffers) width = std::max(width, b.name.size());
  std::string text = fmt::format("{:<{}}  {:>18}  {:<6}  {:>10}\n", "name", width, "shape", "role", "elements");
  std::int64_t total = 0;
  for (const auto& [path, p] : parameters) {
    text += fmt::format("{:<{}}  {:>18}  {:<6}  {:>10}\n", path, width, p.shape().text(), name(p.role()),
                        p.value().elements());
    total += p.value().elements();
  }
  for (const auto& [path, b] : buffers) {
    text += fmt::format("{:<{}}  {:>18}  {:<6}  {:>10}\n", path, width, b.shape().text(), "buffer", b.elements());
  }
  return text + fmt::format("{:<{}}  {:>18}  {:<6}  {:>10}\n", "parameters in all", width, "", "", total);
}

}  // namespace dattn
