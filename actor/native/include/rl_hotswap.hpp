// An actor in C++: follows a policy store, verifies each version, and replaces its policy between two steps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#define RL_HOTSWAP_API __attribute__((visibility("default")))

namespace rl_hotswap {

// The base of the errors below. Messages are one line each.
struct RL_HOTSWAP_API Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The request is invalid: a malformed key, buffers that do not fit the signature, no such directory.
struct RL_HOTSWAP_API BadInput : Error {
  using Error::Error;
};

// A version does not match its manifest, its key or its probe.
struct RL_HOTSWAP_API DoesNotVerify : Error {
  using Error::Error;
};

// Nothing can be said about the version now: it was removed meanwhile, or the disk failed. A later try may succeed.
struct RL_HOTSWAP_API Unavailable : Error {
  using Error::Error;
};

// No version has been adopted yet.
struct RL_HOTSWAP_API NotReady : Error {
  using Error::Error;
};

// The acting version failed in a call, and there is no earlier one that could answer.
struct RL_HOTSWAP_API PolicyFailed : Error {
  using Error::Error;
};

constexpr std::int64_t kAnySize = -1;

// One tensor of a policy: NumPy's name of its type, and its shape. In a policy the first size is `kAnySize`: the rows.
struct TensorSpec {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
};

// Contiguous numbers of the caller, in row-major order.
struct Input {
  const void* data;
  std::size_t bytes;
};
struct Output {
  void* data;
  std::size_t bytes;
};

struct Version {
  std::int64_t number = -1;
  std::string digest;
};

struct AgentOptions {
  // "ed25519:HEX", or the path of a PEM file. Versions need a signature by one of them. Empty: signatures are not read.
  std::vector<std::string> public_keys;
  // The run whose versions may act. Empty: with keys, the run of the first version; without keys, every run.
  std::string run_id;
  // Lets programs use operators that are not known to be pure, such as those that read files.
  bool trust_programs = false;
  // The store is listed this often even if the system reports no change in it.
  double poll_s = 1.0;
  // Receives single lines on the loader's thread. It must not throw.
  std::function<void(const std::string&)> log;
};

struct Counts {
  std::uint64_t adopted = 0;
  std::uint64_t refused = 0;  // versions that did not verify
  std::uint64_t failed = 0;   // versions that failed while they acted
};

// Acts with the newest version of a store that verifies.
//
// A thread of the agent watches the store, verifies and loads. `adopt` and `act` take no lock, read no file and belong
// to one thread; everything else may be called from any.
class RL_HOTSWAP_API Agent {
 public:
  // `store` is the directory of a policy store, which may appear later. Throws BadInput for malformed options.
  explicit Agent(const std::string& store, AgentOptions options = {});
  ~Agent();
  Agent(const Agent&) = delete;
  Agent& operator=(const Agent&) = delete;

  // Waits until a version acts or can be adopted. Returns false after `timeout_s`.
  bool wait(double timeout_s) const;

  // Starts to act with the version that is ready. Returns false if there is none. Call it between two steps, or between
  // two episodes if the policy has recurrent state. It costs one load of an atomic when nothing is ready.
  bool adopt();

  // Computes the outputs of `rows` rows, and returns the version that computed them.
  //
  // If the acting version fails (it raises, or returns numbers that are not finite or not in the action space), it is
  // refused for good and the last good version answers instead. Throws NotReady, PolicyFailed, or BadInput for buffers
  // of another number or size than the signature says. The result is valid until the next call of `adopt` or `act`.
  const Version& act(std::int64_t rows, const Input* inputs, std::size_t input_count, const Output* outputs,
                     std::size_t output_count);

  // The acting version (valid like the result of `act`), and the tensors that all versions of this agent take and
  // return. For the acting thread. Throw NotReady.
  const Version& version() const;
  const std::vector<TensorSpec>& inputs() const;
  const std::vector<TensorSpec>& outputs() const;

  Counts counts() const;

 private:
  class Implementation;
  std::unique_ptr<Implementation> implementation_;
};

// Returns the bytes of one row of a policy's tensor. Throws BadInput for an unknown type.
RL_HOTSWAP_API std::size_t row_bytes(const TensorSpec& spec);

// Sets the number of threads with which LibTorch computes one operator, in the whole process. One is best for small
// policies. Call it before the first agent is made.
RL_HOTSWAP_API void set_threads(int threads);

}  // namespace rl_hotswap
