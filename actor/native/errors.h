// The two ways in which a version is not acted with. Both end in one line on stderr.
#pragma once

#include <stdexcept>

// What was asked for cannot be done at all: bad flags, no such directory, no program for this engine. Exit code 2.
struct BadInput : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// There is a version, and it is not what its manifest promises. Exit code 1.
struct DoesNotVerify : std::runtime_error {
  using std::runtime_error::runtime_error;
};
