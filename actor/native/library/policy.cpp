#include "policy.h"

#include <torch/script.h>

#include <sstream>

#include "program_check.h"
#include "rl_hotswap.hpp"

namespace rl_hotswap {

namespace {

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

torch::jit::Module load(const std::string& program, ProgramTrust trust) {
  // Compile at the first call; otherwise the first two calls are profiled.
  torch::jit::FusionStrategy specialise_nothing{{torch::jit::FusionBehavior::STATIC, 0},
                                                {torch::jit::FusionBehavior::DYNAMIC, 0}};
  torch::jit::setFusionStrategy(specialise_nothing);
  std::istringstream stream(program);
  try {
    if (trust == ProgramTrust::kPureOnly) check_archive(program);
    torch::jit::Module module = torch::jit::load(stream, at::kCPU);
    module.eval();
    if (!module.find_method("forward")) throw DoesNotVerify("the program has no method forward");
    if (trust == ProgramTrust::kPureOnly) check_operators(module);
    return module;
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const DoesNotVerify&) {
    throw;
  } catch (const std::exception& error) {
    throw DoesNotVerify("torch::jit::load: " + first_line(error.what()));
  }
}

std::map<std::string, at::Tensor> tensors_of(const torch::jit::Module& module) {
  std::map<std::string, at::Tensor> tensors;
  for (const auto& parameter : module.named_parameters()) {
    parameter.value.requires_grad_(false);
    tensors.emplace(parameter.name, parameter.value);
  }
  for (const auto& buffer : module.named_buffers()) tensors.emplace(buffer.name, buffer.value);
  return tensors;
}

}  // namespace

struct Policy::Program {
  torch::jit::Module module;
  torch::jit::Method forward;
  std::map<std::string, at::Tensor> weights;  // share their memory with the module's
};

Policy::Policy(const std::string& program, ProgramTrust trust) {
  const torch::jit::Module module = load(program, trust);
  program_ = std::make_unique<Program>(Program{module, module.get_method("forward"), tensors_of(module)});
}

Policy::~Policy() = default;

void Policy::load_weights(const std::map<std::string, at::Tensor>& weights) {
  for (const auto& [name, tensor] : weights) {
    const auto found = program_->weights.find(name);
    if (found == program_->weights.end()) throw DoesNotVerify("the program has no weights " + name);
    at::Tensor& own = found->second;
    if (own.scalar_type() != tensor.scalar_type() || own.sizes() != tensor.sizes()) {
      throw DoesNotVerify("weights of another type or shape than the program's: " + name);
    }
    // The archive of a policy has no weights: one number stands for all of a tensor.
    if (!own.is_contiguous()) own.set_data(at::empty(tensor.sizes(), tensor.options()));
    own.copy_(tensor);
  }
  if (weights.size() != program_->weights.size()) throw DoesNotVerify("the program has weights that the version lacks");
}

std::vector<at::Tensor> Policy::run(const std::vector<at::Tensor>& inputs) {
  try {
    const c10::InferenceMode guard;
    return program_->forward({inputs}).toTensorVector();
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& error) {
    throw DoesNotVerify("the program raised: " + first_line(error.what()));
  }
}

}  // namespace rl_hotswap
