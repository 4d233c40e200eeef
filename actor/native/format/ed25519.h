// Public keys of signed versions (shared/policy/signing.py).
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace rl_hotswap {

constexpr std::size_t kSignatureBytes = 64;

class PublicKey {
 public:
  // `text` is "ed25519:" and 64 hexadecimal digits, or the path of a PEM file. Throws BadInput.
  explicit PublicKey(const std::string& text);
  ~PublicKey();
  PublicKey(PublicKey&&) noexcept;

  // Returns true if the private key made `signature` over exactly `data`.
  bool verifies(std::string_view signature, std::string_view data) const;

 private:
  struct Key;  // keeps OpenSSL's headers out of this header
  std::unique_ptr<Key> key_;
};

// Throws DoesNotVerify unless one of `keys` made `signature` over `data`.
void check_signature(const std::vector<PublicKey>& keys, std::string_view signature, std::string_view data);

}  // namespace rl_hotswap
