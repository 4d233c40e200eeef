#include "loaded_policy.h"

#include <ATen/Functions.h>

#include <cstring>
#include <string>
#include <utility>

#include "safetensors.h"

namespace rl_hotswap {

namespace {

constexpr std::int64_t kMaxRows = 1 << 24;

std::vector<std::size_t> bytes_of_rows(const std::vector<TensorSpec>& specs) {
  std::vector<std::size_t> bytes;
  for (const TensorSpec& spec : specs) bytes.push_back(row_bytes(spec));
  return bytes;
}

// Throws BadInput unless each buffer has `rows` rows of its tensor.
template <typename Buffer>
void check_buffers(const char* what, std::int64_t rows, const std::vector<TensorSpec>& specs,
                   const std::vector<std::size_t>& row_sizes, const Buffer* buffers, std::size_t count) {
  if (count != specs.size()) {
    throw BadInput("expected " + std::to_string(specs.size()) + " " + what + "s, found " + std::to_string(count));
  }
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t expected = row_sizes[i] * static_cast<std::size_t>(rows);
    if (buffers[i].bytes != expected || (buffers[i].data == nullptr && expected != 0)) {
      throw BadInput(what + (" " + specs[i].name) + ": expected " + std::to_string(expected) + " bytes of " +
                     specs[i].dtype + ", found " + std::to_string(buffers[i].bytes));
    }
  }
}

}  // namespace

LoadedPolicy::LoadedPolicy(Manifest manifest, std::unique_ptr<Policy> policy)
    : manifest_(std::move(manifest)),
      version_{manifest_.version, manifest_.digest},
      check_(manifest_),
      policy_(std::move(policy)),
      input_bytes_(bytes_of_rows(manifest_.inputs)),
      output_bytes_(bytes_of_rows(manifest_.outputs)) {}

void LoadedPolicy::act(std::int64_t rows, const Input* inputs, std::size_t input_count, const Output* outputs,
                       std::size_t output_count) {
  if (rows < 1 || rows > kMaxRows) throw BadInput("expected 1 to 16777216 rows, found " + std::to_string(rows));
  check_buffers("input", rows, manifest_.inputs, input_bytes_, inputs, input_count);
  check_buffers("output", rows, manifest_.outputs, output_bytes_, outputs, output_count);
  if (rows != rows_) make_inputs(rows);
  for (std::size_t i = 0; i < input_count; ++i) {
    if (inputs[i].bytes != 0) std::memcpy(inputs_[i].data_ptr(), inputs[i].data, inputs[i].bytes);
  }
  const std::vector<at::Tensor> found = policy_->run(inputs_);
  check_.check(rows, found, inputs_);
  for (std::size_t i = 0; i < output_count; ++i) {
    if (outputs[i].bytes != 0) std::memcpy(outputs[i].data, found[i].contiguous().const_data_ptr(), outputs[i].bytes);
  }
}

void LoadedPolicy::make_inputs(std::int64_t rows) {
  inputs_.clear();
  for (const TensorSpec& spec : manifest_.inputs) {
    std::vector<std::int64_t> shape = spec.shape;
    shape.front() = rows;
    inputs_.push_back(at::empty(shape, scalar_type(spec.dtype)));
  }
  rows_ = rows;
}

SparePolicy LoadedPolicy::release() { return {manifest_.torchscript->digest, std::move(policy_)}; }

std::size_t row_bytes(const TensorSpec& spec) {
  try {
    std::size_t bytes = at::elementSize(scalar_type(spec.dtype));
    for (std::size_t i = 1; i < spec.shape.size(); ++i) bytes *= static_cast<std::size_t>(spec.shape[i]);
    return bytes;
  } catch (const DoesNotVerify& error) {
    throw BadInput(error.what());
  }
}

}  // namespace rl_hotswap
