#include "options.h"

#include <regex>

#include "rl_hotswap.hpp"

namespace rl_hotswap {

const char* const kHelp =
    R"(usage: native_actor [--json] [--calls N] [--digest SHA256] [--public-key KEY]... [--trust-program] VERSION_DIR

Checks every file of a policy version against the manifest's SHA-256, loads policy.ts from the verified bytes, compares
its outputs with the probe, and measures the latency of single calls at batch 1.

  --json           print one JSON object instead of two lines
  --calls N        the number of measured calls, 1 to 10000000 (default 1000)
  --digest SHA256  refuse versions with another digest
  --public-key KEY refuse versions not signed with this key: a PEM file, or ed25519:HEX; may be repeated
  --trust-program  run programs with operators that are not known to be pure and deterministic

Exit code 0: the version verifies. 1: it does not. 2: it cannot be checked (bad flags, no such directory, no policy.ts).
)";

namespace {

std::size_t call_count(const std::string& text) {
  if (!std::regex_match(text, std::regex("0*[1-9][0-9]{0,6}|0*10000000"))) {
    throw BadInput("--calls: expected a number from 1 to 10000000, found '" + text + "'");
  }
  return std::stoul(text);
}

std::string digest(const std::string& text) {
  if (!std::regex_match(text, std::regex("[0-9a-f]{64}"))) {
    throw BadInput("--digest: expected 64 lower-case hexadecimal digits, found '" + text + "'");
  }
  return text;
}

}  // namespace

Options parse_options(const std::vector<std::string>& arguments) {
  Options options;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    const auto value = [&]() -> const std::string& {
      if (i + 1 == arguments.size()) throw BadInput(argument + " needs a value");
      return arguments[++i];
    };
    if (argument == "--json") {
      options.json = true;
    } else if (argument == "--trust-program") {
      options.trust_program = true;
    } else if (argument == "--help") {
      options.help = true;
    } else if (argument == "--calls") {
      options.calls = call_count(value());
    } else if (argument == "--digest") {
      options.digest = digest(value());
    } else if (argument == "--public-key") {
      options.public_keys.push_back(value());
    } else if (argument.rfind("-", 0) == 0) {
      throw BadInput("there is no flag " + argument + " (--help lists every flag)");
    } else if (options.directory.empty()) {
      options.directory = argument;
    } else {
      throw BadInput("expected one version directory, found " + options.directory + " and " + argument);
    }
  }
  if (options.directory.empty() && !options.help) {
    throw BadInput("expected the directory of a policy version (--help explains)");
  }
  return options;
}

}  // namespace rl_hotswap
