#pragma once

#include <string>
#include <string_view>

namespace rl_hotswap {

// Returns the BLAKE3 digest of `data` as 64 lower-case hexadecimal digits.
std::string blake3_hex(std::string_view data);

}  // namespace rl_hotswap
