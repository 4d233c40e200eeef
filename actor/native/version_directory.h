// One version on disk. Every file is read once, bounded, never through a link, and used only if its SHA-256 is right.
#pragma once

#include <string>
#include <vector>

#include "ed25519.h"
#include "manifest.h"

// Closes what it was given.
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
  // Throws BadInput where `path` is no directory, DoesNotVerify where it holds no valid version, or, where there are
  // `keys`, one that none of them signed: the signature is checked before anything of the manifest is read.
  VersionDirectory(const std::string& path, const std::vector<PublicKey>& keys);

  const Manifest& manifest() const { return manifest_; }

  // The bytes of one file that the manifest lists. Throws DoesNotVerify.
  std::string read(const std::string& name) const;

 private:
  FileDescriptor directory_;
  Manifest manifest_;
};
