#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace rl_hotswap {

// Programs that may run: those with pure operators only (program_check.h), or all of a trusted publisher.
enum class ProgramTrust { kPureOnly, kAll };

// A TorchScript program with its weights. Inputs and outputs are lists of tensors in the signature's order.
class Policy {
 public:
  // `program` must be verified: torch.jit checks no checksums. Throws DoesNotVerify.
  Policy(const std::string& program, ProgramTrust trust);
  ~Policy();

  // Replaces the parameters and buffers. Throws DoesNotVerify unless `weights` are exactly those of the program; then
  // some may have been replaced.
  void load_weights(const std::map<std::string, at::Tensor>& weights);

  // `inputs` must match the signature: a traced LSTM kills the process for another size. Throws DoesNotVerify if the
  // program raises.
  std::vector<at::Tensor> run(const std::vector<at::Tensor>& inputs);

 private:
  struct Program;  // keeps torch's largest header out of this header
  std::unique_ptr<Program> program_;
};

}  // namespace rl_hotswap
