#include <algorithm>
#include <cstddef>
#include <cstring>
#include <exception>
#include <functional>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "rl_hotswap.h"
#include "rl_hotswap.hpp"

struct rlhs_agent {
  rl_hotswap::Agent agent;
};

// The C types are passed on as they are.
static_assert(sizeof(rlhs_input) == sizeof(rl_hotswap::Input) && sizeof(rlhs_output) == sizeof(rl_hotswap::Output));
static_assert(offsetof(rlhs_input, bytes) == offsetof(rl_hotswap::Input, bytes));
static_assert(offsetof(rlhs_output, bytes) == offsetof(rl_hotswap::Output, bytes));

namespace {

using rl_hotswap::BadInput;

thread_local std::string last_error;

// Errors of LibTorch have the lines of a stack trace after the first.
rlhs_status fail(rlhs_status status, const char* message) noexcept {
  try {
    last_error = message;
    last_error.resize(std::min(last_error.find('\n'), last_error.size()));
  } catch (...) {
    last_error.clear();
  }
  return status;
}

// Runs `body`, and turns what it throws into a status and a message.
template <typename Body>
rlhs_status guarded(Body&& body) noexcept {
  try {
    body();
    return RLHS_OK;
  } catch (const BadInput& error) {
    return fail(RLHS_BAD_INPUT, error.what());
  } catch (const rl_hotswap::NotReady& error) {
    return fail(RLHS_NOT_READY, error.what());
  } catch (const rl_hotswap::PolicyFailed& error) {
    return fail(RLHS_POLICY_FAILED, error.what());
  } catch (const std::exception& error) {
    return fail(RLHS_FAILED, error.what());
  } catch (...) {
    return fail(RLHS_FAILED, "an unknown error");
  }
}

template <typename Pointer>
void require(const Pointer* pointer, const char* name) {
  if (pointer == nullptr) throw BadInput(std::string(name) + ": expected a pointer, found NULL");
}

rl_hotswap::AgentOptions options_of(const rlhs_options* given) {
  rl_hotswap::AgentOptions options;
  if (given == nullptr) return options;
  if (given->struct_size != sizeof(rlhs_options)) {
    throw BadInput("struct_size: expected " + std::to_string(sizeof(rlhs_options)) + ", found " +
                   std::to_string(given->struct_size) + "; compile against the header of this library");
  }
  if (given->public_key_count != 0) require(given->public_keys, "public_keys");
  for (std::size_t i = 0; i < given->public_key_count; ++i) {
    require(given->public_keys[i], "public_keys");
    options.public_keys.emplace_back(given->public_keys[i]);
  }
  if (given->run_id != nullptr) options.run_id = given->run_id;
  options.trust_programs = given->trust_programs != 0;
  if (given->poll_s != 0) options.poll_s = given->poll_s;
  if (given->log != nullptr) {
    options.log = [log = given->log, context = given->log_context](const std::string& line) {
      log(context, line.c_str());
    };
  }
  return options;
}

const std::vector<rl_hotswap::TensorSpec>& tensors(const rlhs_agent* agent, rlhs_side side) {
  require(agent, "agent");
  if (side != RLHS_INPUT && side != RLHS_OUTPUT) throw BadInput("side: expected RLHS_INPUT or RLHS_OUTPUT");
  return side == RLHS_INPUT ? agent->agent.inputs() : agent->agent.outputs();
}

}  // namespace

const char* rlhs_last_error(void) { return last_error.c_str(); }

rlhs_status rlhs_agent_open(const char* store, const rlhs_options* options, rlhs_agent** agent) {
  return guarded([&] {
    require(store, "store");
    require(agent, "agent");
    *agent = nullptr;
    *agent = new rlhs_agent{rl_hotswap::Agent(store, options_of(options))};
  });
}

void rlhs_agent_close(rlhs_agent* agent) { delete agent; }

rlhs_status rlhs_agent_wait(const rlhs_agent* agent, double timeout_s) {
  return guarded([&] {
    require(agent, "agent");
    if (!agent->agent.wait(timeout_s)) throw rl_hotswap::NotReady("no version was verified in time");
  });
}

rlhs_status rlhs_agent_adopt(rlhs_agent* agent, int* adopted) {
  return guarded([&] {
    require(agent, "agent");
    const bool is_other = agent->agent.adopt();
    if (adopted != nullptr) *adopted = is_other ? 1 : 0;
  });
}

rlhs_status rlhs_agent_act(rlhs_agent* agent, int64_t rows, const rlhs_input* inputs, size_t input_count,
                           const rlhs_output* outputs, size_t output_count, int64_t* version) {
  return guarded([&] {
    require(agent, "agent");
    require(inputs, "inputs");
    require(outputs, "outputs");
    const auto& acted = agent->agent.act(rows, reinterpret_cast<const rl_hotswap::Input*>(inputs), input_count,
                                         reinterpret_cast<const rl_hotswap::Output*>(outputs), output_count);
    if (version != nullptr) *version = acted.number;
  });
}

rlhs_status rlhs_agent_version(const rlhs_agent* agent, int64_t* version, char digest[RLHS_DIGEST_LENGTH + 1]) {
  return guarded([&] {
    require(agent, "agent");
    const rl_hotswap::Version& acting = agent->agent.version();
    if (version != nullptr) *version = acting.number;
    if (digest != nullptr) std::memcpy(digest, acting.digest.c_str(), RLHS_DIGEST_LENGTH + 1);
  });
}

rlhs_status rlhs_agent_tensor_count(const rlhs_agent* agent, rlhs_side side, size_t* count) {
  return guarded([&] {
    require(count, "count");
    *count = tensors(agent, side).size();
  });
}

rlhs_status rlhs_agent_tensor(const rlhs_agent* agent, rlhs_side side, size_t index, rlhs_tensor* tensor) {
  return guarded([&] {
    require(tensor, "tensor");
    const auto& all = tensors(agent, side);
    if (index >= all.size()) throw BadInput("index: expected less than " + std::to_string(all.size()));
    const rl_hotswap::TensorSpec& spec = all[index];
    *tensor = {spec.name.c_str(), spec.dtype.c_str(), spec.shape.data(), spec.shape.size(),
               rl_hotswap::row_bytes(spec)};
  });
}

rlhs_status rlhs_agent_counts(const rlhs_agent* agent, rlhs_counts* counts) {
  return guarded([&] {
    require(agent, "agent");
    require(counts, "counts");
    const rl_hotswap::Counts found = agent->agent.counts();
    *counts = {found.adopted, found.refused, found.failed};
  });
}

rlhs_status rlhs_set_threads(int threads) {
  return guarded([&] { rl_hotswap::set_threads(threads); });
}
