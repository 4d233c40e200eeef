// What a policy version says of itself (shared/policy/manifest.py is the definition): as much of it as an actor needs.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

constexpr std::string_view kManifestName = "manifest.json";
constexpr std::string_view kSignatureName = "manifest.sig";
constexpr std::uint64_t kMaxManifestBytes = 4U << 20U;

struct FileEntry {
  std::string sha256;
  std::uint64_t size_bytes;
};

constexpr std::int64_t kAnySize = -1;

// One tensor of the program. Among inputs `kAnySize` is the batch size, the same wherever it stands.
struct TensorSpec {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
};

struct Manifest {
  std::int64_t version;
  std::string run_id;
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  std::map<std::string, FileEntry> files;
  std::optional<std::string> torchscript_file;
  std::string probe_file;
  double atol;
  double rtol;
  std::string digest;  // of what acts; the one that rollouts are stamped with
};

// Throws DoesNotVerify with what was expected and what was found.
Manifest decode_manifest(std::string_view bytes);
