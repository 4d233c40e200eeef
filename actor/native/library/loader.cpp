#include "loader.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <new>
#include <utility>

namespace rl_hotswap {

namespace {

constexpr double kFirstRetryS = 0.1;
constexpr double kLongestRetryS = 30.0;
constexpr std::size_t kDigestShown = 12;
constexpr std::size_t kMostOfAReason = 300;

std::vector<PublicKey> keys_of(const std::vector<std::string>& texts) {
  return std::vector<PublicKey>(texts.begin(), texts.end());
}

std::string one_line(std::string text) {
  const auto steers = [](unsigned char byte) { return byte < 0x20 || byte == 0x7f; };
  std::replace_if(text.begin(), text.end(), steers, ' ');
  return text;
}

std::string name_of(std::int64_t version) { return "policy version " + std::to_string(version); }

double seconds(std::chrono::steady_clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

AgentOptions checked(AgentOptions options) {
  if (!(options.poll_s > 0 && std::isfinite(options.poll_s))) throw BadInput("expected a poll_s above 0");
  return options;
}

}  // namespace

Loader::Loader(std::string store, AgentOptions options)
    : store_(std::move(store)),
      options_(checked(std::move(options))),
      keys_(keys_of(options_.public_keys)),
      watch_(store_),
      run_id_(options_.run_id),
      thread_([this] { run(); }) {}

Loader::~Loader() {
  stops_ = true;
  watch_.wake();
  thread_.join();
}

void Loader::report_failure(const Version& version, const std::string& reason, std::optional<std::int64_t> left) {
  {
    const std::lock_guard lock(failures_mutex_);
    failures_.push_back({version, reason, left});
  }
  watch_.wake();
}

bool Loader::wait_for_offer(double timeout_s) const {
  std::unique_lock lock(offered_mutex_);
  const std::chrono::duration<double> timeout(std::clamp(timeout_s, 0.0, 1e6));
  return offered_.wait_for(lock, timeout, [this] { return hand_over_.has_offer(); });
}

void Loader::run() {
  while (!stops_) {
    collect_returned();
    note_failures();
    const std::optional<std::int64_t> next = select();
    if (next) {
      load(*next);
    } else {
      watch_.wait(pause_s());
    }
  }
}

void Loader::collect_returned() {
  for (auto& policy : hand_over_.collect()) spare_ = policy->release();
}

void Loader::note_failures() {
  std::vector<Failure> failures;
  {
    const std::lock_guard lock(failures_mutex_);
    failures.swap(failures_);
  }
  for (const Failure& failure : failures) {
    refused_content_.emplace(failure.version.digest, failure.reason);
    refuse(failure.version.number, "it failed while it acted: " + failure.reason);
    if (held_ == failure.version.number) held_ = failure.left;
  }
}

// As select_version in actor/versions/version_selection.py: an old version is only better than none.
std::optional<std::int64_t> Loader::select() {
  const std::vector<std::int64_t> known = list();
  forget_removed(known);
  const auto now = Clock::now();
  next_due_.reset();
  for (auto version = known.rbegin(); version != known.rend(); ++version) {
    if (held_ && *version <= std::max(*held_, highest_.value_or(*held_))) return std::nullopt;
    const auto retry = retries_.find(*version);
    if (retry != retries_.end() && retry->second.due > now) {
      next_due_ = std::min(retry->second.due, next_due_.value_or(retry->second.due));
    } else if (refused_.count(*version) == 0) {
      return *version;
    }
  }
  return std::nullopt;
}

// Returns no versions if the store cannot be listed now.
std::vector<std::int64_t> Loader::list() {
  try {
    std::vector<std::int64_t> known = list_versions(store_);
    listing_error_.clear();
    return known;
  } catch (const std::exception& error) {
    if (listing_error_ != error.what()) log(std::string("policy store not listed reason=") + error.what());
    listing_error_ = error.what();
    return {};
  }
}

// Numbers are never used again, so what is known of a version that was removed is of no use.
void Loader::forget_removed(const std::vector<std::int64_t>& known) {
  const auto is_removed = [&](std::int64_t version) {
    return !std::binary_search(known.begin(), known.end(), version);
  };
  for (auto it = retries_.begin(); it != retries_.end();) it = is_removed(it->first) ? retries_.erase(it) : ++it;
  for (auto it = refused_.begin(); it != refused_.end();) it = is_removed(*it) ? refused_.erase(it) : ++it;
}

void Loader::load(std::int64_t version) {
  try {
    offer(verify(version));
  } catch (const Unavailable& error) {
    retry_later(version, error.what());
  } catch (const std::bad_alloc&) {
    retry_later(version, "no memory");
  } catch (const std::exception& error) {
    refuse(version, error.what());
  }
}

std::unique_ptr<LoadedPolicy> Loader::verify(std::int64_t version) {
  const auto began = Clock::now();
  const VersionDirectory directory(store_ + "/" + version_name(version), keys_);
  const Manifest& manifest = directory.manifest();
  check_contract(manifest);
  const ProgramTrust trust = options_.trust_programs ? ProgramTrust::kAll : ProgramTrust::kPureOnly;
  VerifiedVersion verified = load_version(directory, trust, std::exchange(spare_, {}));
  auto policy = std::make_unique<LoadedPolicy>(manifest, std::move(verified.policy));
  std::array<char, 64> took{};
  std::snprintf(took.data(), took.size(), " load_ms=%.1f reused=%s", 1e3 * seconds(Clock::now() - began),
                verified.is_reused ? "true" : "false");
  log(name_of(version) + " ready digest=" + manifest.digest.substr(0, kDigestShown) + took.data());
  return policy;
}

// Throws DoesNotVerify unless the version can replace those before it.
void Loader::check_contract(const Manifest& manifest) {
  const auto refused = refused_content_.find(manifest.digest);
  if (refused != refused_content_.end()) throw DoesNotVerify("the same content failed before: " + refused->second);
  if (!run_id_.empty() && manifest.run_id != run_id_) {
    throw DoesNotVerify("it is of the run " + manifest.run_id + "; this actor follows the run " + run_id_);
  }
  if (!manifest.is_policy()) throw DoesNotVerify("it is a module, not a policy");
  if (!signature_.empty() && manifest.signature != signature_) {
    throw DoesNotVerify("its signature is another than that of the first version; restart the actor to follow it");
  }
}

void Loader::offer(std::unique_ptr<LoadedPolicy> policy) {
  const Manifest& manifest = policy->manifest();
  held_ = manifest.version;
  highest_ = std::max(manifest.version, highest_.value_or(manifest.version));
  signature_ = manifest.signature;
  if (!keys_.empty()) run_id_ = manifest.run_id;
  retries_.erase(manifest.version);
  std::unique_ptr<LoadedPolicy> passed_over;
  {
    const std::lock_guard lock(offered_mutex_);  // of `wait_for_offer`; the acting thread takes without it
    passed_over = hand_over_.offer(std::move(policy));
  }
  offered_.notify_all();
  if (passed_over) spare_ = passed_over->release();
}

void Loader::refuse(std::int64_t version, const std::string& reason) {
  refused_.insert(version);
  refused_count_.fetch_add(1, std::memory_order_relaxed);
  log(name_of(version) + " refused reason=" + reason.substr(0, std::min(reason.find('\n'), kMostOfAReason)));
}

void Loader::retry_later(std::int64_t version, const std::string& reason) {
  Retry& retry = retries_[version];
  if (retry.attempts == 0) log(name_of(version) + " will be retried reason=" + reason);
  const double delay_s = std::min(kLongestRetryS, kFirstRetryS * std::exp2(retry.attempts));
  retry.attempts = std::min(retry.attempts + 1, 16);
  retry.due = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(delay_s));
}

// Returns the time until the next listing, or until a retry is due.
double Loader::pause_s() const {
  if (!next_due_) return options_.poll_s;
  return std::clamp(seconds(*next_due_ - Clock::now()), 0.0, options_.poll_s);
}

void Loader::log(const std::string& line) const {
  if (options_.log) options_.log(one_line(line));
}

}  // namespace rl_hotswap
