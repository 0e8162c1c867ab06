#include "train/event_file.h"

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>

#include <fcntl.h>
#include <unistd.h>

#include "lace/error.h"

namespace lace::train {
namespace {

constexpr std::string_view kPrefix = "events.out.tfevents.";

constexpr std::array<uint32_t, 256> crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < table.size(); ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ (value & 1 ? 0x82f63b78u : 0);
    table[i] = value;
  }
  return table;
}

// A checksum that may stand in data of which a checksum is made.
uint32_t masked_crc(std::string_view bytes) {
  const uint32_t crc = crc32c(bytes);
  return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

template <typename Number>
void put_little_endian(std::string& out, Number value) {
  for (size_t i = 0; i < sizeof(value); ++i) out += static_cast<char>(value >> (8 * i) & 0xff);
}

// A protobuf message.
class Message {
 public:
  Message& integer(int field, int64_t value) {
    key(field, 0);
    varint(static_cast<uint64_t>(value));
    return *this;
  }
  Message& wide(int field, double value) {
    key(field, 1);
    put_little_endian(bytes_, std::bit_cast<uint64_t>(value));
    return *this;
  }
  Message& text(int field, std::string_view value) {
    key(field, 2);
    varint(value.size());
    bytes_ += value;
    return *this;
  }
  Message& narrow(int field, float value) {
    key(field, 5);
    put_little_endian(bytes_, std::bit_cast<uint32_t>(value));
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  void key(int field, unsigned type) { varint(static_cast<uint64_t>(field) << 3 | type); }
  void varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>(value | 0x80);
    bytes_ += static_cast<char>(value);
  }
  std::string bytes_;
};

double now_s() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// Fields of an Event, a SessionLog, a Summary and its values.
enum EventField { kWallTime = 1, kStep = 2, kFileVersion = 3, kSummary = 5, kSessionLog = 7 };
enum OtherField { kStatus = 1, kValue = 1, kTag = 1, kSimpleValue = 2 };
constexpr int64_t kStart = 1;  // a SessionLog's status

Message event(int64_t step) { return Message().wide(kWallTime, now_s()).integer(kStep, step); }

// The seconds in the newest name of an event file in `folder`; −1 if there is none.
int64_t newest(const std::string& folder) {
  int64_t found = -1;
  std::error_code failure;
  for (const auto& entry : std::filesystem::directory_iterator(folder, failure)) {
    const std::string name = entry.path().filename().native();
    if (!name.starts_with(kPrefix)) continue;
    found = std::max<int64_t>(found, std::atoll(name.c_str() + kPrefix.size()));
  }
  return found;
}

std::string host_name() {
  char name[256] = "";
  ::gethostname(name, sizeof(name) - 1);
  return name[0] != '\0' ? name : "localhost";
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  static constexpr std::array<uint32_t, 256> kTable = crc_table();
  uint32_t crc = ~uint32_t{0};
  for (const char c : bytes) crc = crc >> 8 ^ kTable[(crc ^ static_cast<uint8_t>(c)) & 0xff];
  return ~crc;
}

void EventFile::write(std::string_view event) {
  std::string record;
  put_little_endian(record, uint64_t{event.size()});
  put_little_endian(record, masked_crc(record));
  record += event;
  put_little_endian(record, masked_crc(event));
  file_.write({record.data(), record.size()}, path_);
}

// Files of a run are read in the order of their names: two sittings of one second differ in it.
void EventFile::open() {
  const int64_t seconds = std::max(static_cast<int64_t>(now_s()), newest(folder_) + 1);
  std::string digits = std::to_string(seconds);
  digits.insert(0, 10 - std::min<size_t>(10, digits.size()), '0');
  path_ = concat(folder_, "/", kPrefix, digits, ".", host_name(), ".", ::getpid());
  file_ = Descriptor(::open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644));
  LACE_CHECK(file_.get() >= 0, "[files] cannot create ", path_, ": ", std::strerror(errno));
  write(event(0).text(kFileVersion, "brain.Event:2").bytes());
  const Message start = Message().integer(kStatus, kStart);
  write(event(first_step_).text(kSessionLog, start.bytes()).bytes());
}

void EventFile::add(int64_t step, std::span<const std::pair<std::string, double>> scalars) {
  if (file_.get() < 0) open();
  Message summary;
  for (const auto& [name, value] : scalars) {
    const Message scalar =
        Message().text(kTag, name).narrow(kSimpleValue, static_cast<float>(value));
    summary.text(kValue, scalar.bytes());
  }
  write(event(step).text(kSummary, summary.bytes()).bytes());
}

}  // namespace lace::train
