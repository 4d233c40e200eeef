// The thread that follows a store: it selects the newest version, verifies it, and offers it to the acting thread.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "hand_over.h"
#include "loaded_policy.h"
#include "rl_hotswap.hpp"
#include "store_listing.h"

namespace rl_hotswap {

class Loader {
 public:
  // Throws BadInput for malformed options.
  Loader(std::string store, AgentOptions options);
  ~Loader();

  // For the acting thread, without a lock: the version that is ready, and those that act no more.
  std::unique_ptr<LoadedPolicy> take() { return hand_over_.take(); }
  void give_back(std::unique_ptr<LoadedPolicy> policy) { hand_over_.give_back(std::move(policy)); }

  // For the acting thread, after a failure: refuses the content of `version` for good. `left` still acts, if any.
  void report_failure(const Version& version, const std::string& reason, std::optional<std::int64_t> left);

  // For any thread. Returns false after `timeout_s` without a version that is ready.
  bool wait_for_offer(double timeout_s) const;
  std::uint64_t refused() const { return refused_count_.load(std::memory_order_relaxed); }

 private:
  using Clock = std::chrono::steady_clock;

  struct Failure {
    Version version;
    std::string reason;
    std::optional<std::int64_t> left;
  };
  struct Retry {
    int attempts = 0;
    Clock::time_point due;
  };

  void run();
  void collect_returned();
  void note_failures();
  std::optional<std::int64_t> select();
  std::vector<std::int64_t> list();
  void forget_removed(const std::vector<std::int64_t>& known);
  void load(std::int64_t version);
  std::unique_ptr<LoadedPolicy> verify(std::int64_t version);
  void check_contract(const Manifest& manifest);
  void offer(std::unique_ptr<LoadedPolicy> policy);
  void refuse(std::int64_t version, const std::string& reason);
  void retry_later(std::int64_t version, const std::string& reason);
  double pause_s() const;
  void log(const std::string& line) const;

  const std::string store_;
  const AgentOptions options_;
  const std::vector<PublicKey> keys_;
  DirectoryWatch watch_;
  HandOver<LoadedPolicy> hand_over_;

  // Of the loading thread alone.
  std::optional<std::int64_t> held_;     // the newest version that acts or is ready
  std::optional<std::int64_t> highest_;  // the highest that was ever ready
  std::set<std::int64_t> refused_;
  std::map<std::string, std::string> refused_content_;  // digest and reason
  std::map<std::int64_t, Retry> retries_;
  std::optional<Clock::time_point> next_due_;  // of the retries that matter
  std::string listing_error_;
  std::string run_id_;
  std::string signature_;  // of the first version
  SparePolicy spare_;

  std::atomic<bool> stops_{false};
  std::atomic<std::uint64_t> refused_count_{0};
  std::mutex failures_mutex_;
  std::vector<Failure> failures_;
  mutable std::mutex offered_mutex_;
  mutable std::condition_variable offered_;

  std::thread thread_;  // last: it uses everything above
};

}  // namespace rl_hotswap
