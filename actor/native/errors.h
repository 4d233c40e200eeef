// The two kinds of failure. Each prints one line on stderr.
#pragma once

#include <stdexcept>

// The request is invalid: bad flags, no such directory, no program for this engine. Exit code 2.
struct BadInput : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The version does not match its manifest. Exit code 1.
struct DoesNotVerify : std::runtime_error {
  using std::runtime_error::runtime_error;
};
