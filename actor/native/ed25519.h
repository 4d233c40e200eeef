// Public keys that versions are signed with, as shared/policy/signing.py has them.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

constexpr std::size_t kSignatureBytes = 64;

class PublicKey {
 public:
  // `text` is "ed25519:" and 64 hexadecimal digits, or the name of a file in PEM. Throws BadInput.
  explicit PublicKey(const std::string& text);
  ~PublicKey();
  PublicKey(PublicKey&&) noexcept;

  // Whether `signature` was made with the private key over exactly `data`.
  bool verifies(std::string_view signature, std::string_view data) const;

 private:
  struct Key;  // keeps OpenSSL's headers out of this one
  std::unique_ptr<Key> key_;
};

// Throws DoesNotVerify unless one of `keys` made `signature` over `data`.
void check_signature(const std::vector<PublicKey>& keys, std::string_view signature, std::string_view data);
