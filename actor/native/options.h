#pragma once

#include <cstddef>
#include <string>
#include <vector>

struct Options {
  std::string directory;
  std::string digest;  // empty: any
  std::size_t calls = 1000;
  bool json = false;
  bool help = false;
};

extern const char* const kHelp;

// Throws BadInput.
Options parse_options(const std::vector<std::string>& arguments);
