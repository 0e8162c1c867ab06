#pragma once

#include <tuple>

#include <cutlass/cutlass.h>
#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/device/gemm_universal_adapter.h>
#include <cutlass/gemm/kernel/gemm_universal.hpp>

#include "kernels/elementwise/cuda/gelu.cuh"
#include "kernels/elementwise/cuda/launch.h"
#include "kernels/products/cuda/gelu_kernels.h"

namespace lace::cuda::products {

// D [m, n] = epilogue(A [m, k] B [n, k]ᵀ), m the columns of u and n its rows, D column by column.

namespace fusion = cutlass::epilogue::fusion;
namespace collective = cutlass::epilogue::collective;
using cute::_0;
using cute::_1;
using cute::Int;
using cute::Shape;
using cute::Stride;

constexpr auto kRound = cutlass::FloatRoundStyle::round_to_nearest;
using ColumnMajor = cutlass::layout::ColumnMajor;
using RowMajor = cutlass::layout::RowMajor;

// One for each of kTilings, in its order: warp groups that take turns with whole tiles, the one's
// epilogue beside the other's products (pingpong), or that share each tile. Clusters of two blocks
// share their rows of B.
template <int kColumns, int kRows, typename MainloopSchedule, typename EpilogueSchedule>
struct TilingType {
  using Tile = Shape<Int<kColumns>, Int<kRows>, Int<64>>;
  using Cluster = Shape<Int<2>, _1, _1>;
  using Mainloop = MainloopSchedule;
  using Epilogue = EpilogueSchedule;
};
template <int kIndex, typename MainloopSchedule, typename EpilogueSchedule>
using TilingAt =
    TilingType<static_cast<int>(kTilings[kIndex].columns), static_cast<int>(kTilings[kIndex].rows),
               MainloopSchedule, EpilogueSchedule>;
using TilingTypes = std::tuple<TilingAt<0, cutlass::gemm::KernelTmaWarpSpecializedPingpong,
                                        cutlass::epilogue::TmaWarpSpecialized>,
                               TilingAt<1, cutlass::gemm::KernelTmaWarpSpecializedCooperative,
                                        cutlass::epilogue::TmaWarpSpecializedCooperative>,
                               TilingAt<2, cutlass::gemm::KernelTmaWarpSpecializedCooperative,
                                        cutlass::epilogue::TmaWarpSpecializedCooperative>>;

// Quick-GELU and its gradient on fragments.
template <typename T>
struct Gelu;
template <int kCount>
struct Gelu<cutlass::Array<float, kCount>> {
  using Floats = cutlass::Array<float, kCount>;
  __device__ Floats operator()(const Floats& x) const {
    Floats y;
#pragma unroll
    for (int i = 0; i < kCount; i++) y[i] = QuickGelu::value(x[i]);
    return y;
  }
};
template <>
struct Gelu<float> {};

template <typename T>
struct GeluGrad;
template <int kCount>
struct GeluGrad<cutlass::Array<float, kCount>> {
  using Floats = cutlass::Array<float, kCount>;
  __device__ Floats operator()(const Floats& dy, const Floats& x) const {
    Floats dx;
#pragma unroll
    for (int i = 0; i < kCount; i++) dx[i] = dy[i] * QuickGelu::derivative(x[i]);
    return dx;
  }
};
template <>
struct GeluGrad<float> {};

// What both epilogues are built from. They have no C.
template <typename Element, typename Tiling>
struct Epilogue {
  using Descriptor =
      collective::detail::EpilogueDescriptor<typename Tiling::Tile, collective::EpilogueTileAuto,
                                             void, Element, typename Tiling::Epilogue>;

  template <template <class> class Function, typename Out>
  using Compute = fusion::Sm90Compute<Function, Out, float, kRound>;

  using AuxStore = collective::detail::AuxStoreDescriptor<Descriptor, ColumnMajor, Element>;
  using Bias =
      fusion::Sm90ColBroadcast<0, typename Tiling::Tile, Element, float, Stride<_1, _0, _0>>;
  // u is rounded first, stored, and goes on as it is stored: y is what a kernel of its own would
  // make of u.
  using RoundedSum = fusion::Sm90EVT<Compute<cutlass::plus, Element>, fusion::Sm90AccFetch, Bias>;
  using Stored = fusion::Sm90EVT<
      fusion::Sm90AuxStore<AuxStore::Stages, typename Descriptor::EpilogueTile, Element, kRound,
                           typename AuxStore::Stride, typename AuxStore::SmemLayoutAtom,
                           typename AuxStore::CopyOpR2S>,
      RoundedSum>;
  using Forward = fusion::Sm90EVT<Compute<Gelu, Element>, Stored>;

  using AuxLoad = collective::detail::AuxLoadDescriptor<Descriptor, ColumnMajor, Element>;
  using Loaded = fusion::Sm90AuxLoad<AuxLoad::Stages, typename Descriptor::EpilogueTile, Element,
                                     typename AuxLoad::Stride, typename AuxLoad::SmemLayoutAtom,
                                     typename AuxLoad::CopyOpS2R>;
  // Each block leaves the sums of its tile, unrounded and in one order. Elements outside of the
  // matrices are 0 · gelu'(0).
  using Sum = fusion::Sm90ColReduction<cutlass::plus, cutlass::plus, cutlass::plus, 0,
                                       typename Tiling::Tile, float, float, kRound,
                                       Stride<_1, _0, _0>, 4, /*EnableNullptr=*/true,
                                       /*FinalReduction=*/false, /*VisitCheckOOB=*/false>;
  using Gradient = fusion::Sm90EVT<Compute<GeluGrad, float>, fusion::Sm90AccFetch, Loaded>;
  using Backward = fusion::Sm90EVT<Compute<cutlass::epilogue::thread::Identity, Element>,
                                   fusion::Sm90EVT<Sum, Gradient>>;
};

template <typename Element, typename Tiling, typename LayoutA, typename Fusion>
struct Product {
  static constexpr int kAlignment = 8;
  using EpilogueOp = typename collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, typename Tiling::Tile,
      typename Tiling::Cluster, collective::EpilogueTileAuto, float, float, void, ColumnMajor,
      kAlignment, Element, ColumnMajor, kAlignment, typename Tiling::Epilogue,
      Fusion>::CollectiveOp;
  using MainloopOp = typename cutlass::gemm::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Element, LayoutA, kAlignment, Element,
      ColumnMajor, kAlignment, float, typename Tiling::Tile, typename Tiling::Cluster,
      cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(
          sizeof(typename EpilogueOp::SharedStorage))>,
      typename Tiling::Mainloop>::CollectiveOp;
  using Kernel =
      cutlass::gemm::kernel::GemmUniversal<Shape<int, int, int, int>, MainloopOp, EpilogueOp,
                                           cutlass::gemm::PersistentScheduler>;
  using Gemm = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;
  using FusionArguments = typename EpilogueOp::FusionCallbacks::Arguments;
};

// The strides of a matrix of which `leading` elements lie from row to row, or column to column.
template <typename Strides>
Strides strides(int64_t leading) {
  if constexpr (cute::is_static<cute::tuple_element_t<0, Strides>>::value) {
    return {_1{}, leading, {}};
  } else {
    return {leading, _1{}, {}};
  }
}

// a [m, k] as its layout says, b [n, k] and d [n, m] row by row.
template <typename Product, typename Element>
void run_product(int64_t m, int64_t n, int64_t k, const Element* a, int64_t lda, const Element* b,
                 Element* d, const typename Product::FusionArguments& epilogue,
                 cudaStream_t stream) {
  using Kernel = typename Product::Kernel;
  typename Kernel::Arguments arguments;
  arguments.mode = cutlass::gemm::GemmUniversalMode::kGemm;
  arguments.problem_shape = {static_cast<int>(m), static_cast<int>(n), static_cast<int>(k), 1};
  arguments.mainloop = {a, strides<typename Kernel::StrideA>(lda), b,
                        strides<typename Kernel::StrideB>(k)};
  arguments.epilogue = {epilogue, nullptr, strides<typename Kernel::StrideC>(m), d,
                        strides<typename Kernel::StrideD>(m)};
  arguments.hw_info.sm_count = static_cast<int>(elementwise::multiprocessors());
  typename Product::Gemm gemm;
  cutlass::Status status = gemm.can_implement(arguments);
  if (status == cutlass::Status::kSuccess) status = gemm.initialize(arguments, nullptr, stream);
  if (status == cutlass::Status::kSuccess) status = gemm.run(stream);
  LACE_CHECK(status == cutlass::Status::kSuccess, "[products] CUTLASS must run this product, got ",
             cutlass::cutlassGetStatusString(status));
}

// Calls function(tiling) with a value of the type kTilings[index].
template <typename Function, int kIndex = 0>
void with_tiling(int index, Function function) {
  if constexpr (kIndex < static_cast<int>(std::tuple_size_v<TilingTypes>)) {
    if (index == kIndex) return function(std::tuple_element_t<kIndex, TilingTypes>());
    with_tiling<Function, kIndex + 1>(index, function);
  }
}

// uᵀ [out, rows] = weight [out, in] · xᵀ
template <typename Element>
void linear_gelu(int tiling, const LinearGeluArgs& args, cudaStream_t stream) {
  const LinearShape& s = args.shape;
  with_tiling(tiling, [&](auto type) {
    using Type = decltype(type);
    using Product = Product<Element, Type, RowMajor, typename Epilogue<Element, Type>::Forward>;
    run_product<Product>(
        s.out, s.rows, s.in, static_cast<const Element*>(args.weight), s.in,
        static_cast<const Element*>(args.x), static_cast<Element*>(args.y),
        {{{{}, {static_cast<const Element*>(args.bias), Element(0), {}}, {}},
          {static_cast<Element*>(args.u), strides<Stride<_1, int64_t, int64_t>>(s.out)}},
         {}},
        stream);
  });
}

// dxᵀ [in, rows] = weightᵀ [in, out] · dyᵀ
template <typename Element>
void grad_input_gelu(int tiling, const GradInputGeluArgs& args, float* partials,
                     cudaStream_t stream) {
  const LinearShape& s = args.shape;
  with_tiling(tiling, [&](auto type) {
    using Type = decltype(type);
    using Product = Product<Element, Type, ColumnMajor, typename Epilogue<Element, Type>::Backward>;
    run_product<Product>(s.in, s.rows, s.out, static_cast<const Element*>(args.weight), s.in,
                         static_cast<const Element*>(args.dy), static_cast<Element*>(args.du),
                         {{{{},
                            {static_cast<const Element*>(args.u), Element(0),
                             strides<Stride<_1, int64_t, int64_t>>(s.in)},
                            {}},
                           {partials, 0.0f, {}}},
                          {}},
                         stream);
  });
}

}  // namespace lace::cuda::products
