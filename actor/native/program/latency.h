#pragma once

#include <vector>

#include "policy.h"

namespace rl_hotswap {

// The latency of single calls, in microseconds.
struct Latency {
  std::size_t calls;
  double median_us;
  double p99_us;
};

// Calls `policy` with `inputs` to warm up, then measures `calls` single calls.
Latency measure_latency(Policy& policy, const std::vector<at::Tensor>& inputs, std::size_t calls);

}  // namespace rl_hotswap
