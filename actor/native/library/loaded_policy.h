#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "manifest.h"
#include "output_check.h"
#include "policy.h"
#include "rl_hotswap.hpp"
#include "version_loading.h"

namespace rl_hotswap {

// A verified version in memory. One thread at a time may use it.
class LoadedPolicy {
 public:
  // Throws DoesNotVerify for a module that is not a policy.
  LoadedPolicy(Manifest manifest, std::unique_ptr<Policy> policy);

  const Manifest& manifest() const { return manifest_; }
  const Version& version() const { return version_; }

  // Throws BadInput for buffers that do not fit the signature, DoesNotVerify if the policy fails, and then writes
  // nothing.
  void act(std::int64_t rows, const Input* inputs, std::size_t input_count, const Output* outputs,
           std::size_t output_count);

  // Returns the policy, whose weights may then be replaced. Nothing but the destructor may be called afterwards.
  SparePolicy release();

  LoadedPolicy* next = nullptr;  // of HandOver

 private:
  void make_inputs(std::int64_t rows);

  Manifest manifest_;
  Version version_;
  OutputCheck check_;
  std::unique_ptr<Policy> policy_;
  std::vector<std::size_t> input_bytes_;  // of one row
  std::vector<std::size_t> output_bytes_;
  std::int64_t rows_ = 0;
  std::vector<at::Tensor> inputs_;  // of rows_ rows; programs write to no memory of the caller
};

}  // namespace rl_hotswap
