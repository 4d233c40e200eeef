#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <string_view>

namespace rl_hotswap {

// Returns the tensors of a safetensors file by name; they own their memory.
// Throws DoesNotVerify unless they fill the file without gap or overlap.
std::map<std::string, at::Tensor> decode_safetensors(std::string_view bytes, const std::string& file_name);

// Returns torch's type for NumPy's name of it ("float32"). Throws DoesNotVerify.
at::ScalarType scalar_type(const std::string& numpy_name);

}  // namespace rl_hotswap
