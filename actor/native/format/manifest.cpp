#include "manifest.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <regex>

#include "compact_json.h"
#include "rl_hotswap.hpp"
#include "sha256.h"

namespace rl_hotswap {

namespace {

using nlohmann::json;

constexpr int kFormatVersion = 1;
constexpr int kFormatVersionWithBlake3 = 2;
// As in shared/policy/manifest_checks.py and shared/policy/tensor_limits.py.
constexpr double kMaxTolerance = 1e-3;
constexpr double kEarliestUnixSeconds = 946684800.0;
constexpr double kEndUnixSeconds = 7289654400.0;
constexpr std::size_t kMaxTensors = 10000;
constexpr std::size_t kMaxDimensions = 32;
constexpr std::int64_t kMaxChoices = std::int64_t{1} << 31;
constexpr std::int64_t kMaxVersionBytes = std::int64_t{8} << 30;

[[noreturn]] void refuse(const std::string& why) { throw DoesNotVerify("not a manifest: " + why); }

std::int64_t size_of(const json& size) {
  if (!size.is_number_unsigned() || size.get<std::uint64_t>() > static_cast<std::uint64_t>(kMaxVersionBytes)) {
    refuse("expected the size of a dimension, found " + size.dump().substr(0, 40));
  }
  return size.get<std::int64_t>();
}

void check_shape(const TensorSpec& spec) {
  std::int64_t elements = 1;
  for (const std::int64_t size : spec.shape) {
    if (size > 1 && elements > kMaxVersionBytes / size) refuse(spec.name + ": a tensor of too many elements");
    elements *= size > 1 ? size : 1;
  }
  if (spec.shape.size() > kMaxDimensions + 1) refuse(spec.name + ": expected at most 32 dimensions");
}

// A tensor of a policy. The manifest's shape omits the batch dimension, which comes first.
TensorSpec policy_tensor(const json& item) {
  TensorSpec spec{item.at("role"), item.at("dtype"), {kAnySize}};
  for (const json& key : item.at("path")) {
    spec.name += "." + (key.is_string() ? key.get<std::string>() : std::to_string(key.get<std::int64_t>()));
  }
  for (const json& size : item.at("shape")) spec.shape.push_back(size_of(size));
  return spec;
}

// A tensor of a module. A null size follows the batch, a text is the name of a size or a sum of such.
TensorSpec module_tensor(const json& item) {
  TensorSpec spec{item.at("name"), item.at("dtype"), {}};
  for (const json& size : item.at("shape")) {
    spec.shape.push_back(size.is_null() ? kAnySize : size.is_string() ? kNamedSize : size_of(size));
  }
  return spec;
}

std::vector<TensorSpec> tensor_specs(const json& root, const char* which) {
  const bool is_module = root.contains("module");
  std::vector<TensorSpec> specs;
  for (const json& item : root.at(is_module ? "module" : "signature").at(which)) {
    if (specs.size() == kMaxTensors) refuse("expected at most 10,000 tensors");
    specs.push_back(is_module ? module_tensor(item) : policy_tensor(item));
    check_shape(specs.back());
  }
  return specs;
}

std::map<std::string, FileEntry> file_entries(const json& files, const json& format_version) {
  static const std::regex kPlainName("[A-Za-z0-9][A-Za-z0-9._-]{0,127}");
  static const std::regex kDigest("[0-9a-f]{64}");
  std::map<std::string, FileEntry> entries;
  std::uint64_t left = kMaxVersionBytes;
  for (const auto& [name, item] : files.items()) {
    if (!std::regex_match(name, kPlainName) || name == kManifestName || name == kSignatureName) {
      refuse("expected a plain file name inside the version's directory, found " + json(name).dump());
    }
    const bool is_blake3 = item.contains("blake3");
    if (item.contains("sha256") == is_blake3 || (is_blake3 && format_version != kFormatVersionWithBlake3)) {
      refuse(name + ": expected one digest, in format 1 a SHA-256");
    }
    const FileEntry entry{item.at(is_blake3 ? "blake3" : "sha256"), item.at("size_bytes").get<std::uint64_t>(),
                          is_blake3};
    if (!std::regex_match(entry.digest, kDigest) || !item.at("size_bytes").is_number_unsigned()) {
      refuse(name + ": expected a digest in hexadecimal and a size in bytes");
    }
    if (entry.size_bytes > left) refuse("expected a version of at most 8 GiB, found a larger one");
    left -= entry.size_bytes;
    entries.emplace(name, entry);
  }
  return entries;
}

std::optional<TorchScriptProgram> torchscript_program(const json& programs) {
  for (const json& program : programs) {
    if (program.at("kind") == "torchscript")
      return TorchScriptProgram{program.at("file"), program.at("program_digest")};
  }
  return std::nullopt;
}

// Returns the bounds of a box. A null bound is `unbounded`.
std::vector<double> bounds(const json& numbers, double unbounded) {
  std::vector<double> found;
  for (const json& number : numbers) found.push_back(number.is_null() ? unbounded : number.get<double>());
  return found;
}

ActionSpace action_space(const json& action) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const json none = json::array();
  for (const json& number : action.value("cardinalities", none)) {
    if (!number.is_number_unsigned() || number == 0 || number > kMaxChoices) {
      refuse("expected the number of choices of an action, found " + number.dump().substr(0, 40));
    }
  }
  return {action.at("kind"), action.value("cardinalities", none), action.value("start", none),
          bounds(action.value("low", none), -kInfinity), bounds(action.value("high", none), kInfinity)};
}

void check_listed(const Manifest& manifest, const std::string& name) {
  if (manifest.files.count(name) == 0)
    refuse("it needs " + json(name).dump() + " but does not list it among its files");
}

// The SHA-256 of a compact array of the parts that act, files as sorted pairs: Manifest.digest in
// shared/policy/manifest.py.
std::string digest_of(const std::map<std::string, std::string>& members) {
  std::string files;
  for (const auto& [name, entry] : compact_members(members.at("files"))) {
    files += (files.empty() ? "" : ",") + ("[" + json(name).dump() + "," + entry + "]");
  }
  const auto module = members.find("module");
  return sha256_hex("[" + members.at("format_version") + "," + members.at("signature") + "," + members.at("programs") +
                    ",[" + files + "]," + members.at("weights") + "," + members.at("probe") +
                    (module == members.end() ? "" : "," + module->second) + "]");
}

Manifest read(std::string_view bytes) {
  const json root = json::parse(bytes.begin(), bytes.end());
  const json& format_version = root.at("format_version");
  if (format_version != kFormatVersion && format_version != kFormatVersionWithBlake3) {
    refuse("expected format 1 or 2, found " + root.at("format_version").dump() +
           "; build the actor of the release that published it");
  }
  const json& probe = root.at("probe");
  const auto members = compact_members(bytes);
  Manifest manifest{root.at("version"),
                    root.at("run_id"),
                    tensor_specs(root, "inputs"),
                    tensor_specs(root, "outputs"),
                    file_entries(root.at("files"), format_version),
                    torchscript_program(root.at("programs")),
                    root.at("weights"),
                    probe.at("file"),
                    probe.at("atol"),
                    probe.at("rtol"),
                    digest_of(members),
                    action_space(root.at("signature").at("action")),
                    members.at("signature")};
  check_listed(manifest, manifest.weights_file);
  check_listed(manifest, manifest.probe_file);
  if (manifest.torchscript) check_listed(manifest, manifest.torchscript->file);
  if (manifest.version < 0) refuse("expected a version of at least 0, found " + std::to_string(manifest.version));
  for (const double tolerance : {manifest.atol, manifest.rtol}) {
    if (!(tolerance >= 0 && tolerance <= kMaxTolerance)) {
      refuse("expected probe tolerances from 0 to 0.001, found " + probe.dump());
    }
  }
  const double created = root.at("created_unix_s");
  if (!(created >= kEarliestUnixSeconds && created < kEndUnixSeconds)) {
    refuse("expected created_unix_s in the years 2000 to 2200, found " + root.at("created_unix_s").dump());
  }
  const double train_s = root.value("training", json::object()).value("train_s", 0.0);
  if (!(train_s >= 0 && train_s <= kEndUnixSeconds - kEarliestUnixSeconds)) {
    refuse("expected a train_s of less than 200 years, found " + std::to_string(train_s));
  }
  if (root.contains("module") && manifest.is_policy()) {
    refuse("expected a policy or a module, found the signatures of both");
  }
  if (manifest.inputs.empty() || manifest.outputs.empty()) refuse("expected at least one input and one output");
  return manifest;
}

}  // namespace

Manifest decode_manifest(std::string_view bytes) {
  try {
    return read(bytes);
  } catch (const MalformedJson& error) {
    refuse(error.what());
  } catch (const json::exception& error) {
    refuse(error.what());
  } catch (const std::out_of_range& error) {  // of compact_members
    refuse(error.what());
  }
}

}  // namespace rl_hotswap
