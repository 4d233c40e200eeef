#include "version_directory.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <regex>

#include "blake3.h"
#include "rl_hotswap.hpp"
#include "sha256.h"

namespace rl_hotswap {

namespace {

int open_directory(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) {
    throw Unavailable("cannot open the directory " + path + ": " + std::strerror(errno) +
                      "; expected that of a policy version");
  }
  return descriptor;
}

// Throws the error about a file that does not open. Its version is being removed if the manifest, which goes first, is
// missing too.
[[noreturn]] void fail_to_open(int directory, const std::string& name, int error) {
  const std::string manifest(kManifestName);
  const bool is_version = ::faccessat(directory, manifest.c_str(), F_OK, 0) == 0 || name == manifest;
  if (error == ENOENT && !is_version) throw Unavailable(name + ": the version was removed meanwhile");
  if (error == ELOOP) throw DoesNotVerify(name + ": expected a regular file, found a link");
  if (error == ENOENT || error == ENXIO) throw DoesNotVerify(name + ": " + std::strerror(error));
  throw Unavailable(name + ": " + std::strerror(error));
}

// Returns at most `limit + 1` bytes; the extra byte shows that a file is too long.
std::string read_bounded(int directory, const std::string& name, std::uint64_t limit) {
  // O_NONBLOCK: opening a pipe would block.
  const FileDescriptor file(::openat(directory, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (file.get() < 0) fail_to_open(directory, name, errno);
  struct stat status{};
  if (::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) {
    throw DoesNotVerify(name + ": expected a regular file");
  }
  std::string bytes(std::min<std::uint64_t>(static_cast<std::uint64_t>(status.st_size), limit) + 1, '\0');
  std::size_t filled = 0;
  while (filled < bytes.size()) {
    const ssize_t count = ::read(file.get(), bytes.data() + filled, bytes.size() - filled);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw Unavailable(name + ": " + std::strerror(errno));
    if (count == 0) break;
    filled += static_cast<std::size_t>(count);
  }
  bytes.resize(filled);
  return bytes;
}

std::string read_signature(int directory) {
  const std::string name(kSignatureName);
  struct stat status{};
  if (::fstatat(directory, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0 && errno == ENOENT) {
    throw DoesNotVerify(name + ": not there, so the version is not signed");
  }
  return read_bounded(directory, name, kSignatureBytes);
}

Manifest read_manifest(int directory, const std::vector<PublicKey>& keys) {
  const std::string bytes = read_bounded(directory, std::string(kManifestName), kMaxManifestBytes);
  if (bytes.size() > kMaxManifestBytes) {
    throw DoesNotVerify("a manifest has at most " + std::to_string(kMaxManifestBytes) + " bytes");
  }
  if (!keys.empty()) check_signature(keys, read_signature(directory), bytes);
  return decode_manifest(bytes);
}

// Throws DoesNotVerify if the directory has the name of another version.
void check_name(const std::string& path, std::int64_t version) {
  std::error_code error;
  const std::string name = std::filesystem::canonical(path, error).filename().string();
  if (error) throw Unavailable(path + ": " + error.message());
  std::array<char, 32> expected{};
  std::snprintf(expected.data(), expected.size(), "v%06lld", static_cast<long long>(version));
  if (std::regex_match(name, std::regex("v[0-9]{6,}")) && name != expected.data()) {
    throw DoesNotVerify("the directory " + name + " holds version " + std::to_string(version));
  }
}

}  // namespace

FileDescriptor::~FileDescriptor() {
  if (value_ >= 0) ::close(value_);
}

VersionDirectory::VersionDirectory(const std::string& path, const std::vector<PublicKey>& keys)
    : directory_(open_directory(path)), manifest_(read_manifest(directory_.get(), keys)) {
  check_name(path, manifest_.version);
}

std::string VersionDirectory::read(const std::string& name) const {
  const FileEntry& entry = manifest_.files.at(name);
  std::string bytes = read_bounded(directory_.get(), name, entry.size_bytes);
  if (bytes.size() != entry.size_bytes) {
    const std::string found = bytes.size() > entry.size_bytes ? "more" : std::to_string(bytes.size());
    throw DoesNotVerify(name + ": expected " + std::to_string(entry.size_bytes) + " bytes, found " + found);
  }
  const std::string found = entry.is_blake3 ? blake3_hex(bytes) : sha256_hex(bytes);
  if (found != entry.digest) {
    const std::string kind = entry.is_blake3 ? "BLAKE3 " : "SHA-256 ";
    throw DoesNotVerify(name + ": the manifest promises " + kind + entry.digest + ", found " + found);
  }
  return bytes;
}

}  // namespace rl_hotswap
