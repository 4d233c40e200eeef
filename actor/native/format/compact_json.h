// JSON without white space, with the original order of members and form of numbers. The digest of a manifest is defined
// over this form, so it equals the bytes that the publisher hashed.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "rl_hotswap.hpp"

namespace rl_hotswap {

struct MalformedJson : DoesNotVerify {
  using DoesNotVerify::DoesNotVerify;
};

// Returns the members of a JSON object by name, each as compact JSON. Throws MalformedJson, also for repeated keys.
std::map<std::string, std::string> compact_members(std::string_view json_object);

}  // namespace rl_hotswap
