#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "lace/error.h"

#include "data/decode_audio.h"

// For builds with sanitizers: libsndfile 1.2.0 does not free what libvorbis allocates for a file
// that breaks off in its headers.
extern "C" const char* __lsan_default_suppressions();
extern "C" const char* __lsan_default_suppressions() { return "leak:libvorbis\n"; }

namespace {

class Memory : public lace::ByteSource {
 public:
  explicit Memory(std::span<const uint8_t> bytes) : bytes_(bytes) {}
  void read(int64_t offset, std::span<uint8_t> out) const override {
    if (offset < 0 || static_cast<size_t>(offset) + out.size() > bytes_.size()) std::abort();
    if (!out.empty()) std::memcpy(out.data(), bytes_.data() + offset, out.size());
  }

 private:
  std::span<const uint8_t> bytes_;
};

struct Enough {};  // silence packs to almost nothing: a small file may hold hours

}  // namespace

// Any bytes are a file that decodes to at least one sample, or throw lace::Error whose text is
// short; nothing beyond the file is asked for.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  int64_t samples = 0;
  try {
    lace::decode_audio(Memory({data, size}), static_cast<int64_t>(size), "x", 12000,
                       [&](std::span<const uint8_t> codes) {
                         samples += static_cast<int64_t>(codes.size());
                         if (samples > 10'000) throw Enough();
                       });
    if (samples == 0) std::abort();
  } catch (const lace::Error& error) {
    if (std::string_view(error.what()).size() > 1000) std::abort();
  } catch (const Enough&) {
  }
  return 0;
}
