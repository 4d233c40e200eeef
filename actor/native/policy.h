#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

// A TorchScript program with its weights: one list of tensors in, one out, in the signature's order.
class Policy {
 public:
  // torch.jit checks no checksums: `program` was compared with the manifest's SHA-256. Throws DoesNotVerify.
  explicit Policy(const std::string& program);
  ~Policy();

  // The caller has checked `inputs` against the signature: a traced LSTM that is given another size kills the process.
  // Throws DoesNotVerify where the program raises.
  std::vector<at::Tensor> run(const std::vector<at::Tensor>& inputs);

 private:
  struct Program;  // keeps torch's largest header out of this one
  std::unique_ptr<Program> program_;
};
