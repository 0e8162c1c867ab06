#include "data/digest.h"

#include <cstdint>
#include <memory>
#include <vector>

#include <openssl/evp.h>

#include "lace/error.h"

#include "core/regular_file.h"

namespace lace {

std::string file_digest(const std::string& path, const std::string& algorithm) {
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(),
                                                                        EVP_MD_CTX_free);
  const EVP_MD* kind = EVP_get_digestbyname(algorithm.c_str());
  LACE_CHECK(context && kind != nullptr && EVP_DigestInit_ex(context.get(), kind, nullptr) == 1,
             "[digest] this system's OpenSSL does not offer ", algorithm);
  const RegularFile file(path, "digest");
  constexpr int64_t kChunk = 1 << 20;
  std::vector<uint8_t> chunk(kChunk);
  for (int64_t begin = 0; begin < file.bytes(); begin += kChunk) {
    const int64_t count = std::min(kChunk, file.bytes() - begin);
    file.read(begin, chunk.data(), count);
    EVP_DigestUpdate(context.get(), chunk.data(), static_cast<size_t>(count));
  }
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int bytes = 0;
  EVP_DigestFinal_ex(context.get(), digest, &bytes);
  std::string text;
  for (unsigned int i = 0; i < bytes; ++i) {
    constexpr char kDigits[] = "0123456789abcdef";
    text += kDigits[digest[i] >> 4];
    text += kDigits[digest[i] & 15];
  }
  return text;
}

}  // namespace lace
