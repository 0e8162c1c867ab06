// What libtorch's ProcessGroupGloo.hpp names of Gloo, whose own headers its wheel leaves out. They
// are found after all others, so that Gloo's, where they are installed, come first. lace makes and
// uses no object of these classes but through pointers that libtorch gives and takes; the one with
// a layout, Store, is the base of a class of the header's that lace does not use.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

namespace gloo {

class Context {
 public:
  void setTimeout(std::chrono::milliseconds timeout);
};

namespace transport {
class Device;
class UnboundBuffer;
}  // namespace transport

namespace rendezvous {
class Store {
 public:
  virtual ~Store() = default;
  virtual void set(const std::string& key, const std::vector<char>& data) = 0;
  virtual std::vector<char> get(const std::string& key) = 0;
  virtual void wait(const std::vector<std::string>& keys) = 0;
  virtual void wait(const std::vector<std::string>& keys,
                    const std::chrono::milliseconds& timeout) = 0;
};
}  // namespace rendezvous
}  // namespace gloo
