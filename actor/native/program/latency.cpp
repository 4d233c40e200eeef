#include "latency.h"

#include <algorithm>
#include <chrono>

namespace rl_hotswap {

namespace {

constexpr int kWarmUpCalls = 100;

double percentile(const std::vector<double>& sorted, double share) {
  return sorted[static_cast<std::size_t>(share * static_cast<double>(sorted.size() - 1))];
}

}  // namespace

Latency measure_latency(Policy& policy, const std::vector<at::Tensor>& inputs, std::size_t calls) {
  using Clock = std::chrono::steady_clock;
  for (int i = 0; i < kWarmUpCalls; ++i) policy.run(inputs);
  std::vector<double> times_us(calls);
  for (double& time_us : times_us) {
    const auto began = Clock::now();
    policy.run(inputs);
    time_us = std::chrono::duration<double, std::micro>(Clock::now() - began).count();
  }
  std::sort(times_us.begin(), times_us.end());
  return {calls, percentile(times_us, 0.5), percentile(times_us, 0.99)};
}

}  // namespace rl_hotswap
