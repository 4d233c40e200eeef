#pragma once

#include <cstddef>
#include <string>
#include <vector>

struct Options {
  std::string directory;
  std::string digest;  // empty: any
  std::vector<std::string> public_keys;  // none: signatures are not looked at
  std::size_t calls = 1000;
  bool json = false;
  bool help = false;
};

extern const char* const kHelp;

// Throws BadInput.
Options parse_options(const std::vector<std::string>& arguments);
