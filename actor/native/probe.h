#pragma once

#include <ATen/core/Tensor.h>

#include <string_view>
#include <vector>

#include "manifest.h"

// Golden inputs and outputs of one batch of `rows`, in the order of the signature.
struct Probe {
  std::vector<at::Tensor> inputs;
  std::vector<at::Tensor> outputs;
  std::int64_t rows;
};

// Throws DoesNotVerify unless every tensor has the signature's dtype and shape, and all inputs have as many rows.
Probe decode_probe(std::string_view bytes, const Manifest& manifest);

// The largest difference of any float. Throws DoesNotVerify unless each output is within the manifest's
// `atol + rtol * |expected|`; what is not a float must be equal, and so must infinities and NaN.
double compare(const Probe& probe, const std::vector<at::Tensor>& found, const Manifest& manifest);

// The inputs of one row: the first of the probe's. A module without a batch dimension has its inputs as they are.
std::vector<at::Tensor> first_row(const Probe& probe, const Manifest& manifest);
