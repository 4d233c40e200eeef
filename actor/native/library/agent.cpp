#include <ATen/Parallel.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "loader.h"
#include "rl_hotswap.hpp"

namespace rl_hotswap {

class Agent::Implementation {
 public:
  Implementation(const std::string& store, AgentOptions options) : loader_(store, std::move(options)) {}

  bool wait(double timeout_s) const {
    return acts_.load(std::memory_order_acquire) || loader_.wait_for_offer(timeout_s);
  }

  bool adopt() {
    std::unique_ptr<LoadedPolicy> next = loader_.take();
    if (!next) return false;
    loader_.give_back(std::move(last_good_));
    last_good_ = std::move(acting_);
    acting_ = std::move(next);
    if (inputs_.empty()) {
      inputs_ = acting_->manifest().inputs;
      outputs_ = acting_->manifest().outputs;
    }
    acts_.store(true, std::memory_order_release);
    adopted_.fetch_add(1, std::memory_order_relaxed);
    return true;
  }

  const Version& act(std::int64_t rows, const Input* inputs, std::size_t input_count, const Output* outputs,
                     std::size_t output_count) {
    while (true) {
      LoadedPolicy& policy = acting();
      try {
        policy.act(rows, inputs, input_count, outputs, output_count);
        return policy.version();
      } catch (const DoesNotVerify& error) {
        fall_back(error.what());
      }
    }
  }

  const std::vector<TensorSpec>& inputs() const { return tensors(inputs_); }
  const std::vector<TensorSpec>& outputs() const { return tensors(outputs_); }

  LoadedPolicy& acting() const {
    if (!acting_) throw NotReady("no version of the store has been verified and adopted yet");
    return *acting_;
  }

  Counts counts() const {
    return {adopted_.load(std::memory_order_relaxed), loader_.refused(), failed_.load(std::memory_order_relaxed)};
  }

 private:
  const std::vector<TensorSpec>& tensors(const std::vector<TensorSpec>& specs) const {
    if (specs.empty()) acting();
    return specs;
  }

  // Lets the last good version act. Throws PolicyFailed if there is none.
  void fall_back(const std::string& reason) {
    const Version failed = acting_->version();
    failed_.fetch_add(1, std::memory_order_relaxed);
    loader_.give_back(std::move(acting_));
    acting_ = std::move(last_good_);
    std::optional<std::int64_t> left;
    if (acting_) left = acting_->version().number;
    loader_.report_failure(failed, reason, left);
    if (!acting_) {
      acts_.store(false, std::memory_order_release);
      throw PolicyFailed("policy version " + std::to_string(failed.number) +
                         " failed, and no other is loaded: " + reason);
    }
  }

  Loader loader_;
  std::vector<TensorSpec> inputs_;  // of all versions: the loader refuses others
  std::vector<TensorSpec> outputs_;
  std::unique_ptr<LoadedPolicy> acting_;
  std::unique_ptr<LoadedPolicy> last_good_;
  std::atomic<bool> acts_{false};
  std::atomic<std::uint64_t> adopted_{0};
  std::atomic<std::uint64_t> failed_{0};
};

Agent::Agent(const std::string& store, AgentOptions options)
    : implementation_(std::make_unique<Implementation>(store, std::move(options))) {}

Agent::~Agent() = default;

bool Agent::wait(double timeout_s) const { return implementation_->wait(timeout_s); }

bool Agent::adopt() { return implementation_->adopt(); }

const Version& Agent::act(std::int64_t rows, const Input* inputs, std::size_t input_count, const Output* outputs,
                          std::size_t output_count) {
  return implementation_->act(rows, inputs, input_count, outputs, output_count);
}

const Version& Agent::version() const { return implementation_->acting().version(); }

const std::vector<TensorSpec>& Agent::inputs() const { return implementation_->inputs(); }

const std::vector<TensorSpec>& Agent::outputs() const { return implementation_->outputs(); }

Counts Agent::counts() const { return implementation_->counts(); }

void set_threads(int threads) {
  if (threads < 1) throw BadInput("expected at least one thread, found " + std::to_string(threads));
  at::set_num_threads(threads);
}

}  // namespace rl_hotswap
