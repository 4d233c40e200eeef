// The part of a version's manifest that an actor needs (shared/policy/manifest.py is the definition).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "rl_hotswap.hpp"

namespace rl_hotswap {

constexpr std::string_view kManifestName = "manifest.json";
constexpr std::string_view kSignatureName = "manifest.sig";
constexpr std::uint64_t kMaxManifestBytes = 4U << 20U;

struct FileEntry {
  std::string digest;
  std::uint64_t size_bytes;
  bool is_blake3;  // otherwise SHA-256
};

// A size of a module's tensor that varies from call to call, besides the batch.
constexpr std::int64_t kNamedSize = -2;

// The action space: the numbers that actions may have, for each number of a row; `low` and `high` are inclusive.
struct ActionSpace {
  std::string kind;  // as in shared/policy/spaces.py; "none" for a module that is not a policy
  std::vector<std::int64_t> cardinalities;
  std::vector<double> start;
  std::vector<double> low;  // infinite where unbounded
  std::vector<double> high;
};

struct TorchScriptProgram {
  std::string file;
  std::string digest;  // of the program without its weights
};

struct Manifest {
  std::int64_t version;
  std::string run_id;
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  std::map<std::string, FileEntry> files;
  std::optional<TorchScriptProgram> torchscript;
  std::string weights_file;
  std::string probe_file;
  double atol;
  double rtol;
  std::string digest;  // of the parts that act; rollouts carry it
  ActionSpace action;
  std::string signature;  // as compact JSON: equal for versions that can replace each other

  bool is_policy() const { return action.kind != "none"; }
};

// Throws DoesNotVerify with the expected and the found value.
Manifest decode_manifest(std::string_view bytes);

}  // namespace rl_hotswap
