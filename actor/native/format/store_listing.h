// The versions in the directory of a store (shared/store/local_policy_store.py), and changes of it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "version_directory.h"

namespace rl_hotswap {

// Returns 42 for "v000042", and nothing for every other name.
std::optional<std::int64_t> parse_version_name(std::string_view name);

// Returns "v000042" for 42.
std::string version_name(std::int64_t version);

// Returns the numbers of the versions in `store`, ascending, without those that no publisher can have reached
// (shared/store/version_numbers.py). A store that does not exist yet has none. Throws Unavailable.
std::vector<std::int64_t> list_versions(const std::string& store);

// Waits for changes of a directory. `wake` may be called from any thread, everything else from one.
class DirectoryWatch {
 public:
  // Throws Unavailable if the system has no descriptor left.
  explicit DirectoryWatch(std::string path);

  // Returns after a change, after `wake`, or after `timeout_s`.
  void wait(double timeout_s);
  void wake();

 private:
  void watch();  // does nothing once the directory is watched

  std::string path_;
  FileDescriptor woken_;
  FileDescriptor changes_;
  int watched_ = -1;
};

}  // namespace rl_hotswap
