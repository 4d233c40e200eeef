#include "probe.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <sstream>

#include "errors.h"
#include "safetensors.h"

namespace {

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

void check_tensor(const TensorSpec& spec, const at::Tensor& tensor, std::int64_t rows, const std::string& what) {
  std::vector<std::int64_t> shape{rows};
  shape.insert(shape.end(), spec.shape.begin(), spec.shape.end());
  if (tensor.scalar_type() != scalar_type(spec.dtype) || tensor.sizes() != at::IntArrayRef(shape)) {
    std::ostringstream expected;
    expected << spec.dtype << " " << at::IntArrayRef(shape);
    throw DoesNotVerify(what + " " + spec.name + ": expected " + expected.str() + ", found " + describe(tensor));
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

std::int64_t row_count(const Probe& probe) {
  const at::Tensor& first = probe.inputs.front();
  const std::int64_t rows = first.dim() == 0 ? 0 : first.size(0);
  if (rows == 0) throw DoesNotVerify("the probe has no rows");
  return rows;
}

[[noreturn]] void mismatch(const TensorSpec& spec, const at::Tensor& excess, const at::Tensor& expected,
                           const at::Tensor& found, const Manifest& manifest) {
  const std::int64_t worst = excess.argmax().item<std::int64_t>();
  throw DoesNotVerify("the probe is not reproduced: " + spec.name + ", row " +
                      std::to_string(worst / (expected.numel() / expected.size(0))) + ": expected " +
                      short_number(expected.flatten()[worst].item<double>()) + ", found " +
                      short_number(found.flatten()[worst].item<double>()) + "; allowed " + short_number(manifest.atol) +
                      " + " + short_number(manifest.rtol) + " * |expected|");
}

}  // namespace

Probe decode_probe(std::string_view bytes, const Manifest& manifest) {
  const auto tensors = decode_safetensors(bytes, manifest.probe_file);
  Probe probe{in_order(tensors, manifest.inputs, "input."), in_order(tensors, manifest.outputs, "output.")};
  const std::int64_t rows = row_count(probe);
  for (std::size_t i = 0; i < probe.inputs.size(); ++i) {
    check_tensor(manifest.inputs[i], probe.inputs[i], rows, "the probe's input");
  }
  for (std::size_t i = 0; i < probe.outputs.size(); ++i) {
    check_tensor(manifest.outputs[i], probe.outputs[i], rows, "the probe's output");
  }
  return probe;
}

double compare(const Probe& probe, const std::vector<at::Tensor>& found, const Manifest& manifest) {
  if (found.size() != manifest.outputs.size()) {
    throw DoesNotVerify("expected " + std::to_string(manifest.outputs.size()) + " outputs, found " +
                        std::to_string(found.size()));
  }
  double largest = 0.0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const TensorSpec& spec = manifest.outputs[i];
    check_tensor(spec, found[i], row_count(probe), "output");
    if (found[i].numel() == 0) continue;
    const bool is_float = at::isFloatingType(found[i].scalar_type());
    const at::Tensor expected = probe.outputs[i].to(at::kDouble);
    const at::Tensor difference = (found[i].to(at::kDouble) - expected).abs();
    const at::Tensor allowed = is_float ? manifest.atol + manifest.rtol * expected.abs() : at::zeros_like(expected);
    // Not `>`: a NaN is wrong too.
    if (!(difference <= allowed).all().item<bool>()) {
      mismatch(spec, (difference - allowed).nan_to_num(INFINITY).flatten(), expected, found[i].to(at::kDouble),
               manifest);
    }
    if (is_float) largest = std::max(largest, difference.max().item<double>());
  }
  return largest;
}
