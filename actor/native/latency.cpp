#include "latency.h"

#include <algorithm>
#include <chrono>

namespace {

constexpr int kWarmUpCalls = 100;

double percentile(const std::vector<double>& sorted, double share) {
  return sorted[static_cast<std::size_t>(share * static_cast<double>(sorted.size() - 1))];
}

}  // namespace

Latency measure_latency(Policy& policy, const std::vector<at::Tensor>& inputs, std::size_t calls) {
  using Clock = std::chrono::steady_clock;
  std::vector<at::Tensor> row;
  for (const at::Tensor& input : inputs) row.push_back(input.slice(0, 0, 1).clone());
  for (int i = 0; i < kWarmUpCalls; ++i) policy.run(row);
  std::vector<double> times_us(calls);
  for (double& time_us : times_us) {
    const auto began = Clock::now();
    policy.run(row);
    time_us = std::chrono::duration<double, std::micro>(Clock::now() - began).count();
  }
  std::sort(times_us.begin(), times_us.end());
  return {calls, percentile(times_us, 0.5), percentile(times_us, 0.99)};
}
