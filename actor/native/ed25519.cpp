#include "ed25519.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <regex>

#include "errors.h"

namespace {

constexpr std::string_view kPrefix = "ed25519:";
constexpr std::size_t kKeyBytes = 32;

struct FreeKey {
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
struct FreeContext {
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};
struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using Pkey = std::unique_ptr<EVP_PKEY, FreeKey>;

Pkey key_of_text(const std::string& text) {
  if (!std::regex_match(text, std::regex("ed25519:[0-9a-f]{64}"))) {
    throw BadInput("--public-key: ed25519: is followed by 64 lower-case hexadecimal digits; found '" + text + "'");
  }
  std::array<unsigned char, kKeyBytes> raw{};
  for (std::size_t i = 0; i < raw.size(); ++i) {
    raw[i] = static_cast<unsigned char>(std::stoul(text.substr(kPrefix.size() + 2 * i, 2), nullptr, 16));
  }
  return Pkey(EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, raw.data(), raw.size()));
}

Pkey key_of_file(const std::string& path) {
  const std::unique_ptr<std::FILE, CloseFile> file(std::fopen(path.c_str(), "rbe"));
  if (!file) throw BadInput("--public-key: cannot read " + path + ": " + std::strerror(errno));
  return Pkey(PEM_read_PUBKEY(file.get(), nullptr, nullptr, nullptr));
}

const unsigned char* bytes_of(std::string_view text) { return reinterpret_cast<const unsigned char*>(text.data()); }

}  // namespace

struct PublicKey::Key {
  Pkey pkey;
};

PublicKey::PublicKey(const std::string& text)
    : key_(new Key{text.rfind(kPrefix, 0) == 0 ? key_of_text(text) : key_of_file(text)}) {
  ERR_clear_error();
  if (!key_->pkey || EVP_PKEY_base_id(key_->pkey.get()) != EVP_PKEY_ED25519) {
    throw BadInput("--public-key: " + text + " is no Ed25519 public key; expected its file in PEM, or ed25519:HEX");
  }
}

PublicKey::~PublicKey() = default;
PublicKey::PublicKey(PublicKey&&) noexcept = default;

bool PublicKey::verifies(std::string_view signature, std::string_view data) const {
  const std::unique_ptr<EVP_MD_CTX, FreeContext> context(EVP_MD_CTX_new());
  EVP_PKEY* const pkey = key_->pkey.get();
  const bool verified =
      context && EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, pkey) == 1 &&
      EVP_DigestVerify(context.get(), bytes_of(signature), signature.size(), bytes_of(data), data.size()) == 1;
  ERR_clear_error();
  return verified;
}

void check_signature(const std::vector<PublicKey>& keys, std::string_view signature, std::string_view data) {
  if (signature.size() != kSignatureBytes) {
    const std::string found = signature.size() > kSignatureBytes ? "more" : std::to_string(signature.size());
    throw DoesNotVerify("manifest.sig: expected a signature of " + std::to_string(kSignatureBytes) + " bytes, found " +
                        found);
  }
  const auto verifies = [&](const PublicKey& key) { return key.verifies(signature, data); };
  if (std::none_of(keys.begin(), keys.end(), verifies)) {
    throw DoesNotVerify(
        "manifest.sig: no signature by a key that --public-key names: it was made with another key, or manifest.json "
        "was changed since");
  }
}
