// The part of a version's manifest that an actor needs (shared/policy/manifest.py is the definition).
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

// One tensor of the program. In inputs `kAnySize` is the batch size, which all inputs share.
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
  std::string digest;  // of the parts that act; rollouts carry it
};

// Throws DoesNotVerify with the expected and the found value.
Manifest decode_manifest(std::string_view bytes);
