#include "kernels/cuda/sm90/uploaded_work.h"

namespace lace::sm90 {

const UploadedWork& uploaded_work(const cuda::UploadedPlan& uploaded, const Plan& plan,
                                  cudaStream_t stream) {
  const auto make = [&](UploadedWork& made, cuda::DevicePacker& packer) {
    made.work = make_work(plan);
    packer.add(made.work.groups, &made.tables.groups);
    packer.add(made.work.heads, &made.tables.heads);
    packer.add(made.work.tiles, &made.tables.tiles);
    packer.add(made.work.runs, &made.tables.runs);
    packer.add(made.work.mask_ids, &made.tables.mask_ids);
    packer.add(made.work.mask_rows, &made.tables.mask_rows);
    packer.add(made.work.offsets, &made.tables.offsets);
    packer.add(made.work.row_bits, &made.tables.row_bits);
    made.tables.group_count = static_cast<int32_t>(made.work.groups.size());
  };
  return uploaded.table<UploadedWork>(0, stream, make);
}

}  // namespace lace::sm90
