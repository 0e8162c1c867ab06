#include "pattern/mask.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "lace/error.h"

#include "core/home.h"
#include "core/mix64.h"
#include "core/regular_file.h"
#include "core/safe_text.h"
#include "core/safetensors.h"
#include "pattern/atoms.h"

namespace lace::pattern {
namespace {

const SafetensorsHeader::Tensor& mask_tensor(const SafetensorsHeader& header,
                                             const std::string& file) {
  const auto named = header.tensors.find("mask");
  if (named != header.tensors.end()) return named->second;
  LACE_CHECK(header.tensors.size() == 1, "[mask] ", file,
             " must hold one tensor, or one named \"mask\", got ", header.tensors.size());
  return header.tensors.begin()->second;
}

int64_t block_size(const SafetensorsHeader& header, const std::string& file) {
  const auto entry = header.metadata.find("block_size");
  LACE_CHECK(entry != header.metadata.end(), "[mask] __metadata__ of ", file,
             " must have a block_size, got none");
  const std::string& text = entry->second;
  int64_t size = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), size);
  LACE_CHECK(
      error == std::errc{} && end == text.data() + text.size() && size >= 1 && size <= kMaxArgument,
      "[mask] block_size of ", file, " must be a positive integer, got \"", printable(text), "\"");
  return size;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (const int64_t size : shape) {
    if (text.size() > 1) text += ", ";
    text += std::to_string(size);
  }
  return text + "]";
}

// Of the numbers and the bits, eight bytes at a time.
uint64_t hash(const BlockMask& mask) {
  uint64_t value = kMix64Step;
  const auto add = [&value](uint64_t word) {
    value = (value ^ word) * 0xff51afd7ed558ccdu;
    value ^= value >> 32;
  };
  for (const int64_t number : {mask.heads, mask.blocks, mask.block_size}) {
    add(static_cast<uint64_t>(number));
  }
  constexpr size_t kWord = sizeof(uint64_t);
  for (size_t at = 0; at < mask.live.size(); at += kWord) {
    uint64_t word = 0;
    std::memcpy(&word, mask.live.data() + at, std::min(kWord, mask.live.size() - at));
    add(word);
  }
  return mix64(value);
}

std::shared_ptr<const BlockMask> load(const SafetensorsFile& opened, const std::string& file) {
  const SafetensorsHeader& header = opened.header();
  const SafetensorsHeader::Tensor& tensor = mask_tensor(header, file);
  LACE_CHECK(tensor.dtype == "BOOL", "[mask] tensor of ", file, " must be BOOL, got ",
             printable(tensor.dtype));
  const auto& shape = tensor.shape;
  LACE_CHECK(shape.size() == 3 && shape[0] >= 1 && shape[1] >= 1 && shape[1] == shape[2],
             "[mask] tensor of ", file, " must be [heads or 1, blocks, blocks], got ",
             shape_text(shape));
  std::vector<uint8_t> live = opened.read(tensor);
  for (const uint8_t byte : live) {
    LACE_CHECK(byte <= 1, "[mask] elements of ", file, " must be 0 or 1, got ", int{byte});
  }
  return block_mask(shape[0], shape[1], block_size(header, file), std::move(live));
}

// The masks of files that have not changed since. At most kMaxFiles of them, and kMaxBytes in all:
// when one more would be too many, all go.
class MaskCache {
 public:
  std::shared_ptr<const BlockMask> find(const std::string& file, const FileIdentity& identity) {
    const std::lock_guard lock(mutex_);
    const auto known = masks_.find(file);
    return known != masks_.end() && known->second.identity == identity ? known->second.mask
                                                                       : nullptr;
  }

  void keep(const std::string& file, const FileIdentity& identity,
            std::shared_ptr<const BlockMask> mask) {
    const std::lock_guard lock(mutex_);
    const size_t bytes = mask->live.size();
    const auto known = masks_.find(file);
    if (known != masks_.end()) {
      bytes_ -= known->second.mask->live.size();
      masks_.erase(known);
    }
    if (masks_.size() >= kMaxFiles || bytes_ + bytes > kMaxBytes) {
      masks_.clear();
      bytes_ = 0;
    }
    bytes_ += bytes;
    masks_[file] = {identity, std::move(mask)};
  }

 private:
  static constexpr size_t kMaxFiles = 256, kMaxBytes = size_t{1} << 30;
  struct Entry {
    FileIdentity identity;
    std::shared_ptr<const BlockMask> mask;
  };
  std::mutex mutex_;
  std::unordered_map<std::string, Entry> masks_;
  size_t bytes_ = 0;
};

}  // namespace

std::shared_ptr<const BlockMask> read_mask(const std::string& name) {
  static MaskCache cache;
  LACE_CHECK(!name.empty(), "[mask] file must have a name, got none");
  LACE_CHECK(name.find('\0') == std::string::npos,
             "[mask] file must have a name without zero bytes, got ", printable(name));
  const std::string file = expand_home(name);
  const auto identity = identity_of(file);
  if (identity) {
    if (auto known = cache.find(file, *identity)) return known;
  }
  const bool settled = identity && identity->settled();  // before a byte is read
  const SafetensorsFile opened(file);
  auto mask = load(opened, printable(file));
  if (settled && opened.identity() == *identity) cache.keep(file, *identity, mask);
  return mask;
}

}  // namespace lace::pattern

namespace lace {

std::shared_ptr<const BlockMask> block_mask(int64_t heads, int64_t blocks, int64_t block_size,
                                            std::vector<uint8_t> live) {
  LACE_CHECK(heads >= 1 && blocks >= 1 && 1 <= block_size && block_size <= pattern::kMaxArgument,
             "[mask] heads, blocks and block_size must be positive, got ", heads, ", ", blocks,
             " and ", block_size);
  LACE_CHECK(static_cast<int64_t>(live.size()) == heads * blocks * blocks, "[mask] a mask of ",
             heads, " heads and ", blocks, " blocks must have ", heads * blocks * blocks,
             " elements, got ", live.size());
  auto mask = std::make_shared<BlockMask>();
  mask->heads = heads;
  mask->blocks = blocks;
  mask->block_size = block_size;
  mask->live = std::move(live);
  mask->content_hash = pattern::hash(*mask);
  return mask;
}

}  // namespace lace
