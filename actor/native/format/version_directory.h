// A version on disk. Each file is read once, up to its listed size, never through a link, and its SHA-256 is checked.
#pragma once

#include <string>
#include <vector>

#include "ed25519.h"
#include "manifest.h"

namespace rl_hotswap {

// Owns a file descriptor.
class FileDescriptor {
 public:
  explicit FileDescriptor(int value) : value_(value) {}
  ~FileDescriptor();
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return value_; }

 private:
  int value_;
};

class VersionDirectory {
 public:
  // Throws Unavailable if `path` is no directory, DoesNotVerify if it holds no valid version or, with `keys`, one that
  // no key signed. The signature is checked before the manifest is parsed.
  VersionDirectory(const std::string& path, const std::vector<PublicKey>& keys);

  const Manifest& manifest() const { return manifest_; }

  // Returns the verified bytes of a file that the manifest lists. Throws DoesNotVerify or Unavailable.
  std::string read(const std::string& name) const;

 private:
  FileDescriptor directory_;
  Manifest manifest_;
};

}  // namespace rl_hotswap
