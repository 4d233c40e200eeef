#include "policy.h"

#include <torch/script.h>

#include <sstream>

#include "errors.h"

namespace {

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

torch::jit::Module load(const std::string& program) {
  // Compile at the first call; otherwise the first two calls are profiled.
  torch::jit::FusionStrategy specialise_nothing{{torch::jit::FusionBehavior::STATIC, 0},
                                                {torch::jit::FusionBehavior::DYNAMIC, 0}};
  torch::jit::setFusionStrategy(specialise_nothing);
  std::istringstream stream(program);
  try {
    torch::jit::Module module = torch::jit::load(stream, at::kCPU);
    module.eval();
    return module;
  } catch (const std::exception& error) {
    throw DoesNotVerify("torch::jit::load: " + first_line(error.what()));
  }
}

}  // namespace

struct Policy::Program {
  torch::jit::Module module;
};

Policy::Policy(const std::string& program) : program_(std::make_unique<Program>(Program{load(program)})) {}

Policy::~Policy() = default;

std::vector<at::Tensor> Policy::run(const std::vector<at::Tensor>& inputs) {
  try {
    const c10::InferenceMode guard;
    return program_->module.forward({inputs}).toTensorVector();
  } catch (const std::exception& error) {
    throw DoesNotVerify("the program raised: " + first_line(error.what()));
  }
}
