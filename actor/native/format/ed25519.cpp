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

#include "rl_hotswap.hpp"

namespace rl_hotswap {

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

// Returns true unless the y coordinate is below 2^255 - 19 and that of no point of small order, as PublicKey in
// shared/policy/signing.py: a point of small order verifies forged signatures.
bool is_weak(const EVP_PKEY* pkey) {
  using Bytes = std::array<unsigned char, kKeyBytes>;
  static constexpr Bytes kPrime = {0xed, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                   0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                   0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f};
  static constexpr Bytes kOrder8 = {0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4,
                                    0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6,
                                    0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05};
  static constexpr Bytes kOther8 = {0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b,
                                    0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39,
                                    0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a};
  Bytes y{};
  std::size_t size = y.size();
  if (EVP_PKEY_get_raw_public_key(pkey, y.data(), &size) != 1 || size != y.size()) return true;
  y.back() &= 0x7f;  // the highest bit is the sign of x
  Bytes last = kPrime;
  --last.front();
  const bool is_small = std::all_of(y.begin() + 1, y.end(), [](unsigned char byte) { return byte == 0; });
  const bool is_canonical = std::lexicographical_compare(y.rbegin(), y.rend(), kPrime.rbegin(), kPrime.rend());
  return !is_canonical || (is_small && y.front() <= 1) || y == last || y == kOrder8 || y == kOther8;
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
  if (is_weak(key_->pkey.get())) {
    throw BadInput("--public-key: make a new key: anybody could sign for " + text + ", which is of small order");
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

}  // namespace rl_hotswap
