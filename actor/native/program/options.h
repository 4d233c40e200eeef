#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace rl_hotswap {

struct Options {
  std::string directory;
  std::string digest;                    // empty: any digest
  std::vector<std::string> public_keys;  // empty: signatures are not checked
  std::size_t calls = 1000;
  bool trust_program = false;  // operators are not checked
  bool json = false;
  bool help = false;
};

extern const char* const kHelp;

// Throws BadInput for invalid arguments.
Options parse_options(const std::vector<std::string>& arguments);

}  // namespace rl_hotswap
