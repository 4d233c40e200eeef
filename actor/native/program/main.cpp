// native_actor VERSION_DIR: verifies and runs a policy version without Python.
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "ed25519.h"
#include "latency.h"
#include "options.h"
#include "probe.h"
#include "rl_hotswap.hpp"
#include "version_directory.h"
#include "version_loading.h"

namespace {

using namespace rl_hotswap;

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
  VerifiedVersion verified =
      load_version(directory, options.trust_program ? ProgramTrust::kAll : ProgramTrust::kPureOnly);
  const auto inputs = first_row(verified.probe.inputs, manifest.inputs);
  const Latency latency = measure_latency(*verified.policy, inputs, options.calls);
  (options.json ? print_json : print_lines)(manifest, verified.probe.rows, verified.largest_difference, latency);
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
    const rl_hotswap::Options options = rl_hotswap::parse_options(std::vector<std::string>(values + 1, values + count));
    if (options.help) {
      std::cout << rl_hotswap::kHelp;
      return kVerifies;
    }
    at::set_num_threads(1);
    run(options);
    return kVerifies;
  } catch (const rl_hotswap::BadInput& error) {
    return complain("", error.what(), kCannot);
  } catch (const rl_hotswap::Unavailable& error) {
    return complain("", error.what(), kCannot);
  } catch (const std::exception& error) {
    return complain("does not verify: ", error.what(), kFails);
  }
}
