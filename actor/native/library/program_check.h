// The check of a TorchScript program before it runs: pure and deterministic operators only.
//
// It follows shared/operators on torch's own graphs. Unlike there, torch has read the archive before the operators are
// known, so the archive itself has to come from somebody who is trusted not to attack torch's reader.
#pragma once

#include <string>

namespace torch::jit {
struct Module;
}

namespace rl_hotswap {

// Throws DoesNotVerify for an archive in which code runs while it is loaded, or with objects of native classes.
void check_archive(const std::string& program);

// Throws DoesNotVerify, with the operator, unless the method forward uses pure and deterministic operators only. It may
// write to tensors, lists and dicts that the same call made.
void check_operators(const torch::jit::Module& module);

}  // namespace rl_hotswap
