// cartpole [--envs N] [--record FILE] [--public-key KEY] [--seed N] STORE STEPS
//
// Acts in CartPole, in N environments as one batch, with the newest version of a store. The policy is replaced between
// two steps, whenever a newer version has been verified. `--record` writes each step with the version that chose its
// action (`Step`, below), so that scripts/examples/native_cartpole.py can derive every action again.
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "rl_hotswap.hpp"

namespace {

using Observation = std::array<float, 4>;
using Noise = std::array<float, 2>;

// The dynamics of Gymnasium's CartPole-v1.
class CartPole {
 public:
  explicit CartPole(std::uint64_t seed) : generator_(seed) { reset(); }

  Observation observation() const {
    Observation numbers{};
    for (std::size_t i = 0; i < state_.size(); ++i) numbers[i] = static_cast<float>(state_[i]);
    return numbers;
  }

  // Returns true if the episode ends.
  bool step(std::int64_t action) {
    constexpr double kGravity = 9.8, kTotalMass = 1.1, kPoleMass = 0.1, kHalfLength = 0.5, kForce = 10.0, kTau = 0.02;
    constexpr double kPoleMassLength = kPoleMass * kHalfLength;
    auto& [x, x_dot, theta, theta_dot] = state_;
    const double force = action == 1 ? kForce : -kForce;
    const double cosine = std::cos(theta), sine = std::sin(theta);
    const double pushed = (force + kPoleMassLength * theta_dot * theta_dot * sine) / kTotalMass;
    const double turned =
        (kGravity * sine - cosine * pushed) / (kHalfLength * (4.0 / 3.0 - kPoleMass * cosine * cosine / kTotalMass));
    const double moved = pushed - kPoleMassLength * turned * cosine / kTotalMass;
    x += kTau * x_dot;
    x_dot += kTau * moved;
    theta += kTau * theta_dot;
    theta_dot += kTau * turned;
    constexpr double kPi = 3.14159265358979323846;
    return ++length_ == 500 || std::abs(x) > 2.4 || std::abs(theta) > 12 * 2 * kPi / 360;
  }

  void reset() {
    std::uniform_real_distribution<double> start(-0.05, 0.05);
    for (double& number : state_) number = start(generator_);
    length_ = 0;
  }

 private:
  std::mt19937_64 generator_;
  std::array<double, 4> state_{};
  int length_ = 0;
};

// A record of one step: 32 bytes.
struct Step {
  std::int32_t version;
  std::int32_t action;
  Observation observation;
  Noise noise;
};
static_assert(sizeof(Step) == 32);

struct Arguments {
  std::string store;
  std::uint64_t steps = 0;
  std::string record;
  std::uint64_t seed = 0;
  std::uint64_t environments = 1;
  rl_hotswap::AgentOptions options;
};

Arguments parse(int count, char** values) {
  Arguments arguments;
  std::vector<std::string> places;
  for (int i = 1; i < count; ++i) {
    const std::string word(values[i]);
    if (word.rfind("--", 0) != 0) {
      places.push_back(word);
      continue;
    }
    if (i + 1 == count) throw rl_hotswap::BadInput(word + " needs a value");
    const std::string value(values[++i]);
    if (word == "--record") {
      arguments.record = value;
    } else if (word == "--public-key") {
      arguments.options.public_keys.push_back(value);
    } else if (word == "--envs") {
      arguments.environments = std::strtoull(value.c_str(), nullptr, 10);
    } else if (word == "--seed") {
      arguments.seed = std::strtoull(value.c_str(), nullptr, 10);
    } else {
      throw rl_hotswap::BadInput("there is no flag " + word);
    }
  }
  if (places.size() != 2) throw rl_hotswap::BadInput("expected STORE STEPS (--envs, --record, --public-key, --seed)");
  arguments.store = places[0];
  arguments.steps = std::strtoull(places[1].c_str(), nullptr, 10);
  if (arguments.environments == 0) throw rl_hotswap::BadInput("--envs: expected a number above 0");
  if (arguments.steps == 0) throw rl_hotswap::BadInput("STEPS: expected a number above 0, found " + places[1]);
  arguments.options.log = [](const std::string& line) { std::cerr << line << "\n"; };
  return arguments;
}

// Throws BadInput unless the policies of the store are for CartPole-v1.
void check_contract(const rl_hotswap::Agent& agent) {
  const auto& inputs = agent.inputs();
  const auto& outputs = agent.outputs();
  const bool fits = inputs.size() == 2 && inputs[0].name == "observation" && rl_hotswap::row_bytes(inputs[0]) == 16 &&
                    inputs[1].name == "noise" && rl_hotswap::row_bytes(inputs[1]) == 8 && outputs[0].name == "action" &&
                    outputs[0].dtype == "int64";
  if (!fits) throw rl_hotswap::BadInput("expected policies for CartPole-v1 in the store");
}

// Memory for all outputs; the first is the action.
class OutputBuffers {
 public:
  OutputBuffers(const std::vector<rl_hotswap::TensorSpec>& specs, std::size_t rows) {
    for (const auto& spec : specs) memory_.emplace_back(rl_hotswap::row_bytes(spec) * rows);
    for (auto& bytes : memory_) outputs_.push_back({bytes.data(), bytes.size()});
  }

  const std::vector<rl_hotswap::Output>& outputs() const { return outputs_; }
  const std::int64_t* actions() const { return reinterpret_cast<const std::int64_t*>(memory_.front().data()); }

 private:
  std::vector<std::vector<std::byte>> memory_;
  std::vector<rl_hotswap::Output> outputs_;
};

class Gumbel {
 public:
  explicit Gumbel(std::uint64_t seed) : generator_(seed) {}
  float operator()() { return static_cast<float>(-std::log(-std::log(uniform_(generator_)))); }

 private:
  std::mt19937_64 generator_;
  std::uniform_real_distribution<double> uniform_{1e-12, 1.0 - 1e-12};
};

void run(const Arguments& arguments) {
  rl_hotswap::Agent agent(arguments.store, arguments.options);
  if (!agent.wait(120.0)) throw rl_hotswap::NotReady("no version was verified within two minutes");
  agent.adopt();
  check_contract(agent);
  std::ofstream record;
  if (!arguments.record.empty()) record.open(arguments.record, std::ios::binary);
  std::vector<CartPole> environments;
  for (std::uint64_t i = 0; i < arguments.environments; ++i) environments.emplace_back(arguments.seed + i);
  const std::size_t rows = environments.size();
  std::vector<Observation> observations(rows);
  std::vector<Noise> noise(rows);
  std::vector<Step> steps(rows);
  Gumbel gumbel(arguments.seed + 1);
  OutputBuffers buffers(agent.outputs(), rows);
  std::uint64_t episodes = 0, acted = 0;
  const auto began = std::chrono::steady_clock::now();
  for (; acted < arguments.steps; acted += rows) {
    agent.adopt();
    for (std::size_t i = 0; i < rows; ++i) {
      observations[i] = environments[i].observation();
      noise[i] = {gumbel(), gumbel()};
    }
    const std::array<rl_hotswap::Input, 2> inputs{
        {{observations.data(), sizeof(Observation) * rows}, {noise.data(), sizeof(Noise) * rows}}};
    const rl_hotswap::Version& version = agent.act(static_cast<std::int64_t>(rows), inputs.data(), inputs.size(),
                                                   buffers.outputs().data(), buffers.outputs().size());
    for (std::size_t i = 0; i < rows; ++i) {
      const std::int64_t action = buffers.actions()[i];
      steps[i] = {static_cast<std::int32_t>(version.number), static_cast<std::int32_t>(action), observations[i],
                  noise[i]};
      if (environments[i].step(action)) {
        environments[i].reset();
        ++episodes;
      }
    }
    if (record.is_open()) {
      record.write(reinterpret_cast<const char*>(steps.data()), static_cast<std::streamsize>(sizeof(Step) * rows));
    }
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  record.close();
  if (record.fail() && !arguments.record.empty()) throw rl_hotswap::Unavailable("cannot write " + arguments.record);
  const rl_hotswap::Counts counts = agent.counts();
  std::printf(
      "{\"steps\": %llu, \"episodes\": %llu, \"seconds\": %.3f, \"adopted\": %llu, \"refused\": %llu, \"failed\": "
      "%llu}\n",
      static_cast<unsigned long long>(acted), static_cast<unsigned long long>(episodes), seconds,
      static_cast<unsigned long long>(counts.adopted), static_cast<unsigned long long>(counts.refused),
      static_cast<unsigned long long>(counts.failed));
}

}  // namespace

int main(int count, char** values) {
  try {
    const Arguments arguments = parse(count, values);
    rl_hotswap::set_threads(1);
    run(arguments);
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "cartpole: " << error.what() << "\n";
    return 1;
  }
}
