#pragma once

#include <ATen/core/Tensor.h>

#include <string_view>
#include <vector>

#include "manifest.h"

// Golden inputs and outputs of one batch, in the order of the signature.
struct Probe {
  std::vector<at::Tensor> inputs;
  std::vector<at::Tensor> outputs;
};

// Throws DoesNotVerify unless every tensor has the signature's dtype and shape, and all have the same number of rows.
Probe decode_probe(std::string_view bytes, const Manifest& manifest);

// The largest difference of any float. Throws DoesNotVerify unless each output is within the manifest's
// `atol + rtol * |expected|`; what is not a float must be equal.
double compare(const Probe& probe, const std::vector<at::Tensor>& found, const Manifest& manifest);
