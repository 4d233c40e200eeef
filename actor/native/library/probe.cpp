#include "probe.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <optional>
#include <sstream>

#include "rl_hotswap.hpp"
#include "safetensors.h"

namespace rl_hotswap {

namespace {

// The least tolerance of numbers of 16 bits, as in shared/policy/probe.py.
constexpr double kCoarse = 1.0 / 32;

std::string describe(const at::Tensor& tensor) {
  std::ostringstream text;
  text << tensor.scalar_type() << " " << tensor.sizes();
  return text.str();
}

std::string short_number(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%g", value);
  return text.data();
}

std::string describe(const TensorSpec& spec) {
  std::ostringstream text;
  text << spec.dtype << " " << at::IntArrayRef(spec.shape);
  return text.str();
}

// Returns the dimension that follows the batch, if any.
std::optional<std::size_t> batch_dimension(const TensorSpec& spec) {
  const auto found = std::find(spec.shape.begin(), spec.shape.end(), kAnySize);
  if (found == spec.shape.end()) return std::nullopt;
  return static_cast<std::size_t>(found - spec.shape.begin());
}

void check_tensor(const TensorSpec& spec, const at::Tensor& tensor, const std::string& what) {
  const at::IntArrayRef sizes = tensor.sizes();
  bool fits = tensor.scalar_type() == scalar_type(spec.dtype) && sizes.size() == spec.shape.size();
  for (std::size_t i = 0; fits && i < sizes.size(); ++i) {
    fits = spec.shape[i] == sizes[i] || (spec.shape[i] == kAnySize && sizes[i] > 0) || spec.shape[i] == kNamedSize;
  }
  if (!fits) {
    throw DoesNotVerify(what + " " + spec.name + ": expected " + describe(spec) + " (-1: any), found " +
                        describe(tensor));
  }
}

std::vector<at::Tensor> in_order(const std::map<std::string, at::Tensor>& tensors, const std::vector<TensorSpec>& specs,
                                 const std::string& prefix) {
  std::vector<at::Tensor> ordered;
  for (const TensorSpec& spec : specs) {
    const auto found = tensors.find(prefix + spec.name);
    if (found == tensors.end()) throw DoesNotVerify("the probe lacks " + prefix + spec.name);
    ordered.push_back(found->second);
  }
  return ordered;
}

// Returns the batch size, which all inputs share; 1 without a batch dimension.
std::int64_t row_count(const std::vector<at::Tensor>& inputs, const std::vector<TensorSpec>& specs) {
  std::optional<std::int64_t> rows;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const auto dimension = batch_dimension(specs[i]);
    if (!dimension) continue;
    const std::int64_t found = inputs[i].sizes()[*dimension];
    if (rows && *rows != found) throw DoesNotVerify("the probe's input " + specs[i].name + " has another batch size");
    rows = found;
  }
  return rows.value_or(1);
}

[[noreturn]] void mismatch(const TensorSpec& spec, const at::Tensor& excess, const at::Tensor& expected,
                           const at::Tensor& found, const Manifest& manifest) {
  const std::int64_t worst = excess.flatten().argmax().item<std::int64_t>();
  throw DoesNotVerify("the probe is not reproduced: " + spec.name + ", number " + std::to_string(worst) +
                      ": expected " + short_number(expected.flatten()[worst].item<double>()) + ", found " +
                      short_number(found.flatten()[worst].item<double>()) + "; allowed " + short_number(manifest.atol) +
                      " + " + short_number(manifest.rtol) + " * |expected|");
}

double compare_one(const TensorSpec& spec, const at::Tensor& golden, const at::Tensor& answer,
                   const Manifest& manifest) {
  check_tensor(spec, answer, "output");
  if (answer.sizes() != golden.sizes()) {
    throw DoesNotVerify("output " + spec.name + ": expected " + describe(golden) + ", found " + describe(answer));
  }
  const bool is_float = at::isFloatingType(answer.scalar_type());
  const at::Tensor expected = golden.to(at::kDouble);
  const at::Tensor found = answer.to(at::kDouble);
  const at::Tensor same = (found == expected).logical_or(found.isnan().logical_and(expected.isnan()));
  const at::Tensor difference = (found - expected).abs().masked_fill(same, 0);
  const double least = is_float && answer.element_size() == 2 ? kCoarse : 0.0;
  const double atol = std::max(manifest.atol, least);
  const double rtol = std::max(manifest.rtol, least);
  const at::Tensor allowed = is_float ? atol + rtol * expected.abs() : at::zeros_like(expected);
  // `<=` also rejects a NaN. Only an equal infinity is close to an infinity.
  const at::Tensor right = same.logical_or((difference <= allowed).logical_and(expected.isfinite()));
  if (!right.all().item<bool>()) {
    const at::Tensor excess = (difference - allowed).nan_to_num(INFINITY).masked_fill(right, -INFINITY);
    mismatch(spec, excess, expected, found, manifest);
  }
  return is_float && difference.numel() != 0 ? difference.max().item<double>() : 0.0;
}

}  // namespace

Probe decode_probe(std::string_view bytes, const Manifest& manifest) {
  const auto tensors = decode_safetensors(bytes, manifest.probe_file);
  Probe probe{in_order(tensors, manifest.inputs, "input."), in_order(tensors, manifest.outputs, "output."), 0};
  for (std::size_t i = 0; i < probe.inputs.size(); ++i) {
    check_tensor(manifest.inputs[i], probe.inputs[i], "the probe's input");
  }
  for (std::size_t i = 0; i < probe.outputs.size(); ++i) {
    check_tensor(manifest.outputs[i], probe.outputs[i], "the probe's output");
  }
  probe.rows = row_count(probe.inputs, manifest.inputs);
  return probe;
}

double compare(const std::vector<at::Tensor>& golden, const std::vector<at::Tensor>& found, const Manifest& manifest) {
  if (found.size() != manifest.outputs.size()) {
    throw DoesNotVerify("expected " + std::to_string(manifest.outputs.size()) + " outputs, found " +
                        std::to_string(found.size()));
  }
  double largest = 0.0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    largest = std::max(largest, compare_one(manifest.outputs[i], golden[i], found[i], manifest));
  }
  return largest;
}

std::vector<at::Tensor> first_row(const std::vector<at::Tensor>& tensors, const std::vector<TensorSpec>& specs) {
  std::vector<at::Tensor> row;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const auto dimension = batch_dimension(specs[i]);
    row.push_back(dimension ? tensors[i].narrow(static_cast<std::int64_t>(*dimension), 0, 1).clone() : tensors[i]);
  }
  return row;
}

}  // namespace rl_hotswap
