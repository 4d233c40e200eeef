// The operators that programs may use (shared/operators/torchscript_lists.py).
#pragma once

#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace rl_hotswap {

enum class Required { kFalse, kZero, kNone };

// An argument by name with the value that it has to have.
struct Condition {
  std::string argument;
  Required value;
};

// All conditions of one of the lists have to hold.
using Alternatives = std::vector<std::vector<Condition>>;

// Names of `aten` operators, and of others with their namespace.
extern const std::unordered_set<std::string> kPureOperators;

// Those of them whose results, if they are tensors, are new.
extern const std::unordered_set<std::string> kFreshOperators;

// Operators that are pure only under conditions.
extern const std::unordered_map<std::string, Alternatives> kRandomUnless;

}  // namespace rl_hotswap
