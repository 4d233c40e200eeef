#pragma once

#include <ATen/core/Tensor.h>

#include <string_view>
#include <vector>

#include "manifest.h"

namespace rl_hotswap {

// Golden inputs and outputs of a batch of `rows`, in the signature's order.
struct Probe {
  std::vector<at::Tensor> inputs;
  std::vector<at::Tensor> outputs;
  std::int64_t rows;
};

// Throws DoesNotVerify unless every tensor has the signature's dtype and shape, and all inputs have equally many rows.
Probe decode_probe(std::string_view bytes, const Manifest& manifest);

// Returns the largest difference of the float outputs. Throws DoesNotVerify unless each is within the manifest's
// `atol + rtol * |expected|`. Integers, infinities and NaN must be equal.
double compare(const std::vector<at::Tensor>& golden, const std::vector<at::Tensor>& found, const Manifest& manifest);

// Returns the first row of `tensors`, and all of those without a batch dimension.
std::vector<at::Tensor> first_row(const std::vector<at::Tensor>& tensors, const std::vector<TensorSpec>& specs);

}  // namespace rl_hotswap
