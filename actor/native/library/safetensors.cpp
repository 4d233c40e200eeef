#include "safetensors.h"

#include <ATen/Functions.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>
#include <vector>

#include "compact_json.h"
#include "rl_hotswap.hpp"

namespace rl_hotswap {

namespace {

using nlohmann::json;

constexpr std::uint64_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = 16U << 20U;

struct Dtype {
  const char* safetensors;
  const char* numpy;
  at::ScalarType torch;
};

constexpr Dtype kDtypes[] = {
    {"BOOL", "bool", at::kBool},         {"U8", "uint8", at::kByte},
    {"I8", "int8", at::kChar},           {"U16", "uint16", at::kUInt16},
    {"I16", "int16", at::kShort},        {"U32", "uint32", at::kUInt32},
    {"I32", "int32", at::kInt},          {"U64", "uint64", at::kUInt64},
    {"I64", "int64", at::kLong},         {"F16", "float16", at::kHalf},
    {"F32", "float32", at::kFloat},      {"F64", "float64", at::kDouble},
    {"BF16", "bfloat16", at::kBFloat16}, {"C64", "complex64", at::kComplexFloat},
};

struct Place {
  std::string name;
  at::ScalarType dtype;
  std::vector<std::int64_t> shape;
  std::uint64_t begin;
  std::uint64_t end;
};

at::ScalarType stored_type(const std::string& name) {
  for (const Dtype& dtype : kDtypes) {
    if (name == dtype.safetensors) return dtype.torch;
  }
  throw DoesNotVerify("expected a tensor of BOOL, U8 to U64, I8 to I64 or F16 to F64, found " + name);
}

std::uint64_t header_length(std::string_view bytes) {
  std::uint64_t length = 0;
  for (std::uint64_t i = std::min<std::uint64_t>(kLengthBytes, bytes.size()); i-- > 0;) {
    length = length << 8U | static_cast<unsigned char>(bytes[i]);
  }
  if (bytes.size() < kLengthBytes || length > kMaxHeaderBytes || kLengthBytes + length > bytes.size()) {
    throw DoesNotVerify(std::to_string(bytes.size()) + " bytes with a header of " + std::to_string(length));
  }
  return length;
}

std::vector<Place> places(const json& header) {
  std::vector<Place> found;
  for (const auto& [name, item] : header.items()) {
    if (name == "__metadata__") continue;
    const std::vector<std::uint64_t> offsets = item.at("data_offsets");
    if (offsets.size() != 2) throw DoesNotVerify(name + ": expected two offsets");
    found.push_back({name, stored_type(item.at("dtype")), item.at("shape"), offsets[0], offsets[1]});
  }
  std::sort(found.begin(), found.end(), [](const Place& a, const Place& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  return found;
}

// Returns the bytes of a tensor, or `limit + 1` for more than `limit`, so that no product overflows.
std::uint64_t byte_length(const Place& place, std::uint64_t limit) {
  std::uint64_t length = at::elementSize(place.dtype);
  for (const std::int64_t size : place.shape) {
    if (size < 0) throw DoesNotVerify(place.name + " has a negative size");
    const auto factor = static_cast<std::uint64_t>(size);
    if (factor != 0 && length > limit / factor) return limit + 1;
    length *= factor;
  }
  return length;
}

std::map<std::string, at::Tensor> decode(std::string_view bytes) {
  const std::uint64_t length = header_length(bytes);
  const std::string_view header = bytes.substr(kLengthBytes, length);
  const std::string_view data = bytes.substr(kLengthBytes + length);
  std::map<std::string, at::Tensor> tensors;
  std::uint64_t end = 0;
  compact_members(header);  // refuses repeated keys, about which readers disagree
  for (const Place& place : places(json::parse(header.begin(), header.end()))) {
    const std::uint64_t size = byte_length(place, data.size());
    if (place.begin != end || place.end < place.begin || place.end - place.begin != size || place.end > data.size()) {
      throw DoesNotVerify(place.name + " does not begin where the tensor before it ends, or has another length");
    }
    at::Tensor tensor = at::empty(place.shape, place.dtype);
    if (size != 0) std::memcpy(tensor.data_ptr(), data.data() + place.begin, size);
    tensors.emplace(place.name, std::move(tensor));
    end = place.end;
  }
  if (end != data.size()) throw DoesNotVerify("expected " + std::to_string(end) + " bytes of tensors");
  return tensors;
}

}  // namespace

std::map<std::string, at::Tensor> decode_safetensors(std::string_view bytes, const std::string& file_name) {
  try {
    return decode(bytes);
  } catch (const DoesNotVerify& error) {
    throw DoesNotVerify(file_name + ": not a safetensors file: " + error.what());
  } catch (const json::exception& error) {
    throw DoesNotVerify(file_name + ": not a safetensors file: " + error.what());
  }
}

at::ScalarType scalar_type(const std::string& numpy_name) {
  for (const Dtype& dtype : kDtypes) {
    if (numpy_name == dtype.numpy) return dtype.torch;
  }
  throw DoesNotVerify("the signature has a tensor of the unknown type " + numpy_name);
}

}  // namespace rl_hotswap
