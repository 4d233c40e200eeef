#pragma once

#include <cstddef>
#include <string>
#include <vector>

struct Options {
  std::string directory;
  std::string digest;  // empty: any digest
  std::vector<std::string> public_keys;  // empty: signatures are not checked
  std::size_t calls = 1000;
  bool json = false;
  bool help = false;
};

extern const char* const kHelp;

// Throws BadInput for invalid arguments.
Options parse_options(const std::vector<std::string>& arguments);
