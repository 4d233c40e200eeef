#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "manifest.h"

namespace rl_hotswap {

// The check of a policy's outputs at each step, as actor/acting/action_check.py: the signature's types and shapes,
// finite numbers, actions of the action space that the mask allows.
class OutputCheck {
 public:
  // Throws DoesNotVerify for a manifest whose action space does not fit its outputs.
  explicit OutputCheck(const Manifest& manifest);

  // Throws DoesNotVerify. The outputs are those of `rows` rows of `inputs`.
  void check(std::int64_t rows, const std::vector<at::Tensor>& outputs, const std::vector<at::Tensor>& inputs) const;

 private:
  // Inclusive bounds of the numbers of one row: one for each number, or one for all.
  struct Bounds {
    std::string name;
    at::ScalarType dtype;
    std::vector<std::int64_t> shape;
    std::vector<double> low;
    std::vector<double> high;
  };

  void check_mask_shape(const TensorSpec& mask, const TensorSpec& action) const;
  void check_mask(const at::Tensor& actions, const at::Tensor& mask) const;

  std::vector<Bounds> outputs_;
  std::vector<std::int64_t> cardinalities_;
  std::optional<std::size_t> action_;
  std::optional<std::size_t> mask_;
};

}  // namespace rl_hotswap
