#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/device_plan.h"
#include "kernels/cuda/sm90/work.h"

namespace lace::sm90 {

// Device pointers to the arrays of a Work.
struct WorkTables {
  const WorkGroup* groups = nullptr;
  const int32_t* heads = nullptr;
  const WorkTile* tiles = nullptr;
  const WorkRun* runs = nullptr;
  const int32_t* mask_ids = nullptr;
  const uint32_t* mask_rows = nullptr;
  const int32_t* offsets = nullptr;
  const uint32_t* row_bits = nullptr;
  int32_t group_count = 0;
};

// The work of a plan on one GPU.
struct UploadedWork {
  Work work;
  WorkTables tables;
};

// The work of `plan`, made and uploaded at the first call as device_plan.h tells. Valid as long as
// `uploaded`, which is `plan` on the current device.
const UploadedWork& uploaded_work(const cuda::UploadedPlan& uploaded, const Plan& plan,
                                  cudaStream_t stream);

}  // namespace lace::sm90
