#include "lace/device.h"

#include <gtest/gtest.h>

#include "lace/error.h"

#include "ops/device_stream.h"

namespace lace {
namespace {

std::string error_of(const std::string& text) {
  try {
    find_device(text);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Device, CpuIsAlwaysThere) {
  EXPECT_EQ(find_device("cpu"), c10::Device(c10::kCPU));
  EXPECT_EQ(gpu_name(c10::kCPU), "");
}

TEST(Device, WrongNamesAreTold) {
  for (const char* text : {"", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda1", "cpu:0"}) {
    EXPECT_EQ(error_of(text), std::string("[device] a device is cpu, cuda or cuda:N, got ") + text);
  }
}

TEST(Device, WhatIsMissingIsTold) {
  const auto gpus = ops::gpus();
  if (!ops::kBuiltWithCuda) {
    EXPECT_NE(error_of("cuda").find("this one has none"), std::string::npos) << error_of("cuda");
  } else if (gpus.empty()) {
    EXPECT_NE(error_of("cuda:1").find("needs a GPU"), std::string::npos) << error_of("cuda:1");
  } else {
    EXPECT_EQ(find_device("cuda"), c10::Device(c10::kCUDA, 0));
    EXPECT_EQ(gpu_name(c10::kCUDA), gpus[0].name);
    EXPECT_NE(error_of("cuda:99").find("got cuda:99"), std::string::npos) << error_of("cuda:99");
  }
}

}  // namespace
}  // namespace lace
