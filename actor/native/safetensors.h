#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <string_view>

// The tensors of a safetensors file, by name; they own their memory.
// Throws DoesNotVerify unless they fill the file without gap or overlap.
std::map<std::string, at::Tensor> decode_safetensors(std::string_view bytes, const std::string& file_name);

// torch's type for a name as NumPy writes it ("float32"). Throws DoesNotVerify.
at::ScalarType scalar_type(const std::string& numpy_name);
