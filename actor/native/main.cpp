// native_actor VERSION_DIR: verifies and runs a policy version without Python.
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "ed25519.h"
#include "errors.h"
#include "latency.h"
#include "options.h"
#include "policy.h"
#include "probe.h"
#include "version_directory.h"

namespace {

constexpr int kVerifies = 0;
constexpr int kFails = 1;
constexpr int kCannot = 2;

void print_lines(const Manifest& manifest, std::int64_t rows, double difference, const Latency& latency) {
  std::printf("version %lld verifies: %zu files, digest %s; %lld probe rows reproduced, largest difference %.1e\n",
              static_cast<long long>(manifest.version), manifest.files.size(), manifest.digest.c_str(),
              static_cast<long long>(rows), difference);
  std::printf("latency at batch 1: median %.1f us, p99 %.1f us (%zu calls, 1 thread)\n", latency.median_us,
              latency.p99_us, latency.calls);
}

void print_json(const Manifest& manifest, std::int64_t rows, double difference, const Latency& latency) {
  const nlohmann::ordered_json report{{"version", manifest.version},
                                      {"run_id", manifest.run_id},
                                      {"digest", manifest.digest},
                                      {"files", manifest.files.size()},
                                      {"probe_rows", rows},
                                      {"largest_difference", difference},
                                      {"batch_size", 1},
                                      {"threads", 1},
                                      {"calls", latency.calls},
                                      {"median_us", latency.median_us},
                                      {"p99_us", latency.p99_us}};
  std::cout << report.dump() << "\n";
}

void run(const Options& options) {
  const std::vector<PublicKey> keys(options.public_keys.begin(), options.public_keys.end());
  const VersionDirectory directory(options.directory, keys);
  const Manifest& manifest = directory.manifest();
  if (!options.digest.empty() && options.digest != manifest.digest) {
    throw DoesNotVerify("expected the version with digest " + options.digest + ", found " + manifest.digest);
  }
  if (!manifest.torchscript_file) {
    throw BadInput("version " + std::to_string(manifest.version) +
                   " has no TorchScript program; publish it with policy.ts, which this actor runs");
  }
  // Read each file once, also those that are not run; only the hashed bytes are used afterwards.
  std::string program_bytes;
  std::string probe_bytes;
  for (const auto& [name, entry] : manifest.files) {
    std::string bytes = directory.read(name);
    if (name == *manifest.torchscript_file)
      program_bytes = std::move(bytes);
    else if (name == manifest.probe_file)
      probe_bytes = std::move(bytes);
  }
  const Probe probe = decode_probe(probe_bytes, manifest);
  Policy policy(program_bytes);
  const double difference = compare(probe, policy.run(probe.inputs), manifest);
  const Latency latency = measure_latency(policy, first_row(probe, manifest), options.calls);
  (options.json ? print_json : print_lines)(manifest, probe.rows, difference, latency);
}

int complain(const char* what, const std::string& message, int code) {
  std::string line = message;
  const auto steers = [](unsigned char byte) { return byte < 0x20 || byte == 0x7f; };
  std::replace_if(line.begin(), line.end(), steers, ' ');
  std::cerr << "native_actor: " << what << line << "\n";
  return code;
}

}  // namespace

int main(int count, char** values) {
  try {
    const Options options = parse_options(std::vector<std::string>(values + 1, values + count));
    if (options.help) {
      std::cout << kHelp;
      return kVerifies;
    }
    at::set_num_threads(1);
    run(options);
    return kVerifies;
  } catch (const BadInput& error) {
    return complain("", error.what(), kCannot);
  } catch (const std::exception& error) {
    return complain("does not verify: ", error.what(), kFails);
  }
}
