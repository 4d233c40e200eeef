#include "version_loading.h"

#include <ATen/Functions.h>

#include <algorithm>
#include <map>
#include <utility>

#include "output_check.h"
#include "rl_hotswap.hpp"
#include "safetensors.h"

namespace rl_hotswap {

namespace {

constexpr std::int64_t kMostRowsAlone = 32;
constexpr std::int64_t kLargerBatch = 64;

using Weights = std::map<std::string, at::Tensor>;

Weights finite_weights(const std::string& bytes, const std::string& file_name) {
  Weights weights = decode_safetensors(bytes, file_name);
  for (const auto& [name, tensor] : weights) {
    const bool can_be_infinite = at::isFloatingType(tensor.scalar_type()) || at::isComplexType(tensor.scalar_type());
    if (can_be_infinite && !tensor.isfinite().all().item<bool>()) {
      throw DoesNotVerify(file_name + ": " + name + " is not finite");
    }
  }
  return weights;
}

// Returns the largest difference from the probe: of the whole batch, and for a policy also of its first row alone.
double reproduce(Policy& policy, const Weights& weights, const Probe& probe, const Manifest& manifest) {
  policy.load_weights(weights);
  const auto outputs = policy.run(probe.inputs);
  const double difference = compare(probe.outputs, outputs, manifest);
  if (!manifest.is_policy()) return difference;
  OutputCheck(manifest).check(probe.rows, outputs, probe.inputs);
  return std::max(difference, compare(first_row(probe.outputs, manifest.outputs),
                                      policy.run(first_row(probe.inputs, manifest.inputs)), manifest));
}

using Rows = std::vector<at::Tensor>;

Rows row_alone(const Rows& tensors, std::int64_t row) {
  Rows alone;
  for (const at::Tensor& tensor : tensors) alone.push_back(tensor.narrow(0, row, 1).clone());
  return alone;
}

Rows repeated(const Rows& tensors, std::int64_t times) {
  Rows many;
  for (const at::Tensor& tensor : tensors) {
    std::vector<std::int64_t> counts(static_cast<std::size_t>(tensor.dim()), 1);
    counts.front() = times;
    many.push_back(tensor.repeat(counts));
  }
  return many;
}

// Throws DoesNotVerify unless each row of the probe has its outputs alone, and in a larger batch.
void check_rows(Policy& policy, const Probe& probe, const Manifest& manifest) {
  for (std::int64_t row = 0; row < std::min(probe.rows, kMostRowsAlone); ++row) {
    compare(row_alone(probe.outputs, row), policy.run(row_alone(probe.inputs, row)), manifest);
  }
  const std::int64_t times = kLargerBatch / probe.rows + 1;
  compare(repeated(probe.outputs, times), policy.run(repeated(probe.inputs, times)), manifest);
}

}  // namespace

VerifiedVersion load_version(const VersionDirectory& directory, ProgramTrust trust, SparePolicy spare) {
  const Manifest& manifest = directory.manifest();
  if (!manifest.torchscript) {
    throw BadInput("version " + std::to_string(manifest.version) +
                   " has no TorchScript program; publish it with policy.ts, which this actor runs");
  }
  // Read each file once, also those that are not run; only the hashed bytes are used afterwards.
  std::map<std::string, std::string> bytes;
  for (const auto& [name, entry] : manifest.files) {
    std::string content = directory.read(name);
    if (name == manifest.torchscript->file || name == manifest.weights_file || name == manifest.probe_file) {
      bytes.emplace(name, std::move(content));
    }
  }
  Probe probe = decode_probe(bytes.at(manifest.probe_file), manifest);
  const Weights weights = finite_weights(bytes.at(manifest.weights_file), manifest.weights_file);
  if (spare.policy && spare.program_digest == manifest.torchscript->digest) {
    try {
      const double difference = reproduce(*spare.policy, weights, probe, manifest);
      return {std::move(spare.policy), std::move(probe), difference, true};
    } catch (const DoesNotVerify&) {
      // The digest may be a lie of the manifest: the version's own program decides.
    }
  }
  auto policy = std::make_unique<Policy>(bytes.at(manifest.torchscript->file), trust);
  const double difference = reproduce(*policy, weights, probe, manifest);
  if (manifest.is_policy()) check_rows(*policy, probe, manifest);
  return {std::move(policy), std::move(probe), difference, false};
}

}  // namespace rl_hotswap
