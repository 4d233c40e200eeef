// The checks of one version between its bytes and its first step.
#pragma once

#include <memory>
#include <string>

#include "manifest.h"
#include "policy.h"
#include "probe.h"
#include "version_directory.h"

namespace rl_hotswap {

// A policy in memory without a task: the next version with the same program can use it.
struct SparePolicy {
  std::string program_digest;
  std::unique_ptr<Policy> policy;
};

// A version that reproduces its probe with the weights of its weights file.
struct VerifiedVersion {
  std::unique_ptr<Policy> policy;
  Probe probe;
  double largest_difference;
  bool is_reused;  // the policy is the spare one
};

// Reads and verifies every file of `directory`, and makes its policy: the spare one with new weights if the program is
// the same, else a new one. Throws DoesNotVerify or Unavailable, and BadInput without a program for this engine.
VerifiedVersion load_version(const VersionDirectory& directory, ProgramTrust trust, SparePolicy spare = {});

}  // namespace rl_hotswap
