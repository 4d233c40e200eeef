#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

// A TorchScript program with its weights. Inputs and outputs are lists of tensors in the signature's order.
class Policy {
 public:
  // `program` must be verified: torch.jit checks no checksums. Throws DoesNotVerify.
  explicit Policy(const std::string& program);
  ~Policy();

  // `inputs` must match the signature: a traced LSTM kills the process for another size. Throws DoesNotVerify if the
  // program raises.
  std::vector<at::Tensor> run(const std::vector<at::Tensor>& inputs);

 private:
  struct Program;  // keeps torch's largest header out of this header
  std::unique_ptr<Program> program_;
};
