#pragma once

#include <vector>

#include "policy.h"

// Microseconds of single calls.
struct Latency {
  std::size_t calls;
  double median_us;
  double p99_us;
};

// Calls `policy` with `inputs`: some calls to warm up, then `calls` that are measured one by one.
Latency measure_latency(Policy& policy, const std::vector<at::Tensor>& inputs, std::size_t calls);
