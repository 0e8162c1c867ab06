#include "data/unpacked_file.h"

#include <algorithm>
#include <array>
#include <filesystem>

#include "data/cache.h"
#include "data/unpack.h"

namespace lace {

FoundFile unpacked_file(const FoundFile& file, const std::string& cache) {
  std::array<uint8_t, kPackingBytes> buffer;
  const auto beginning =
      std::span(buffer).first(static_cast<size_t>(std::min(kPackingBytes, file.bytes)));
  const std::shared_ptr<const OpenFile> open = OpenFiles().get(file);
  open->read(file, 0, beginning);
  const Packing packing = packing_of(beginning);
  if (packing == Packing::kNone) return file;
  const std::string shown = path_text(file.path);
  const std::string stem = std::filesystem::path(file.path).filename().native();
  return cached_file(cache, cache_name(stem, "unpacked", {&file, 1}),
                     concat(shown, " is ", name(packing), " data and must be unpacked"),
                     [&](const WriteBytes& write) {
                       int64_t at = 0;
                       const auto read = [&](std::span<uint8_t> out) {
                         const auto left = static_cast<size_t>(file.bytes - at);
                         const auto part = out.first(std::min(out.size(), left));
                         open->read(file, at, part);
                         at += static_cast<int64_t>(part.size());
                         return part.size();
                       };
                       unpack(packing, shown, read, write);
                     });
}

}  // namespace lace
