// The products of linear layers by cuBLASLt, with its epilogue that adds a bias. cuBLASLt is column
// by column: our row-by-row matrices are its transposes.

#include "kernels/products/cuda/cublas_products.h"

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <tuple>
#include <vector>

#include <cublasLt.h>

#include "kernels/cuda/cuda_check.h"
#include "kernels/products/cuda/fastest.h"

namespace lace::cuda::products {

namespace {

#define LACE_CUBLAS(call)                                                                         \
  do {                                                                                            \
    if (const cublasStatus_t lace_status = (call); lace_status != CUBLAS_STATUS_SUCCESS)          \
        [[unlikely]]                                                                              \
      throw Error(concat("[cublas] ", #call, " failed: ", cublasLtGetStatusString(lace_status))); \
  } while (false)

constexpr size_t kWorkspaceBytes = size_t{32} << 20;
constexpr size_t kMostAlgorithms = 32;  // that the library is asked to propose

cudaDataType_t cuda_type(DType dtype) {
  return dtype == DType::kFloat32   ? CUDA_R_32F
         : dtype == DType::kFloat16 ? CUDA_R_16F
                                    : CUDA_R_16BF;
}

// What a product is, apart from where its matrices lie: D [m, n] (+)= op(A) op(B), sum over k.
struct ProductKey {
  cublasOperation_t a_op, b_op;
  int64_t m, n, k;
  DType compute, result;
  cublasLtEpilogue_t epilogue;
  bool add;
  std::array<uint32_t, 4> alignments{};  // of A, B, D and the bias, in bytes

  auto tie() const {
    return std::tie(a_op, b_op, m, n, k, compute, result, epilogue, add, alignments);
  }
  bool operator<(const ProductKey& other) const { return tie() < other.tie(); }
};

// One of cuBLASLt's descriptions.
template <typename T, auto kDestroy>
struct Destroyer {
  void operator()(T* pointer) const { kDestroy(pointer); }
};
using Operation = std::unique_ptr<
    std::remove_pointer_t<cublasLtMatmulDesc_t>,
    Destroyer<std::remove_pointer_t<cublasLtMatmulDesc_t>, cublasLtMatmulDescDestroy>>;
using Layout = std::unique_ptr<
    std::remove_pointer_t<cublasLtMatrixLayout_t>,
    Destroyer<std::remove_pointer_t<cublasLtMatrixLayout_t>, cublasLtMatrixLayoutDestroy>>;
using Preference = std::unique_ptr<
    std::remove_pointer_t<cublasLtMatmulPreference_t>,
    Destroyer<std::remove_pointer_t<cublasLtMatmulPreference_t>, cublasLtMatmulPreferenceDestroy>>;

Layout make_layout(DType dtype, int64_t rows, int64_t columns) {
  cublasLtMatrixLayout_t layout = nullptr;
  LACE_CUBLAS(cublasLtMatrixLayoutCreate(&layout, cuda_type(dtype), static_cast<uint64_t>(rows),
                                         static_cast<uint64_t>(columns), rows));
  return Layout(layout);
}

template <typename T>
void set(const Operation& operation, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  LACE_CUBLAS(cublasLtMatmulDescSetAttribute(operation.get(), attribute, &value, sizeof(value)));
}
template <typename T>
void set(const Preference& preference, cublasLtMatmulPreferenceAttributes_t attribute,
         const T& value) {
  LACE_CUBLAS(
      cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof(value)));
}

struct Operands {
  const void *a, *b;
  void* d;
  const void* bias;
};

// A product that is ready to run.
class Product {
 public:
  Product(cublasLtHandle_t handle, const ProductKey& key) : handle_(handle), key_(key) {
    cublasLtMatmulDesc_t created = nullptr;
    LACE_CUBLAS(cublasLtMatmulDescCreate(&created, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    operation_.reset(created);
    set(operation_, CUBLASLT_MATMUL_DESC_TRANSA, key.a_op);
    set(operation_, CUBLASLT_MATMUL_DESC_TRANSB, key.b_op);
    set(operation_, CUBLASLT_MATMUL_DESC_EPILOGUE, key.epilogue);
    if (key.epilogue != CUBLASLT_EPILOGUE_DEFAULT) {
      set(operation_, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, cuda_type(key.result));
    }
    const bool a_as_is = key.a_op == CUBLAS_OP_N, b_as_is = key.b_op == CUBLAS_OP_N;
    a_ = make_layout(key.compute, a_as_is ? key.m : key.k, a_as_is ? key.k : key.m);
    b_ = make_layout(key.compute, b_as_is ? key.k : key.n, b_as_is ? key.n : key.k);
    d_ = make_layout(key.result, key.m, key.n);
    find_algorithms();
  }

  void run(const Context& context, const Operands& operands) {
    if (operands.bias != nullptr) {
      set(operation_, CUBLASLT_MATMUL_DESC_BIAS_POINTER, operands.bias);
    }
    const Workspace workspace = context.allocate(kWorkspaceBytes);
    if (!context.deterministic && !fastest_) fastest_ = tune(context, operands, workspace.get());
    run(context, algorithms_[context.deterministic ? 0 : *fastest_], operands, workspace.get());
  }

 private:
  struct Algorithm {
    cublasLtMatmulAlgo_t how;
    size_t workspace_bytes;
  };

  // With a workspace, which some clear before every call, and without.
  void find_algorithms() {
    find_algorithms(kWorkspaceBytes);
    LACE_CHECK(!algorithms_.empty(), "[cublas] the library must have this product, got m ", key_.m,
               ", n ", key_.n, ", k ", key_.k);
    find_algorithms(0);
  }

  void find_algorithms(size_t workspace_bytes) {
    cublasLtMatmulPreference_t created = nullptr;
    LACE_CUBLAS(cublasLtMatmulPreferenceCreate(&created));
    const Preference preference(created);
    set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key_.alignments[0]);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key_.alignments[1]);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key_.alignments[2]);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key_.alignments[2]);
    std::array<cublasLtMatmulHeuristicResult_t, kMostAlgorithms> found{};
    int count = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle_, operation_.get(), a_.get(), b_.get(), d_.get(), d_.get(), preference.get(),
        static_cast<int>(found.size()), found.data(), &count);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED) return;
    LACE_CUBLAS(status);
    for (int i = 0; i < count; ++i) {
      const cublasLtMatmulHeuristicResult_t& result = found[static_cast<size_t>(i)];
      if (result.state == CUBLAS_STATUS_SUCCESS) {
        algorithms_.push_back({result.algo, workspace_bytes});
      }
    }
  }

  void run(const Context& context, const Algorithm& algorithm, const Operands& operands,
           void* workspace) const {
    const float one = 1, beta = key_.add ? 1 : 0;
    LACE_CUBLAS(cublasLtMatmul(handle_, operation_.get(), &one, operands.a, a_.get(), operands.b,
                               b_.get(), &beta, operands.d, d_.get(), operands.d, d_.get(),
                               &algorithm.how, algorithm.workspace_bytes > 0 ? workspace : nullptr,
                               algorithm.workspace_bytes,
                               static_cast<cudaStream_t>(context.stream)));
  }

  // The fastest algorithm. What D holds is written over; with key.add it stays, and other memory
  // is.
  size_t tune(const Context& context, const Operands& operands, void* workspace) const {
    if (algorithms_.size() == 1) return 0;
    Operands trial = operands;
    Workspace scratch;
    if (key_.add) {
      scratch = context.allocate(static_cast<size_t>(key_.m * key_.n * size_bytes(key_.result)));
      trial.d = scratch.get();
    }
    return fastest(algorithms_.size(), context, [&](size_t i, const Context& its_own) {
      run(its_own, algorithms_[i], trial, workspace);
    });
  }

  cublasLtHandle_t handle_;
  ProductKey key_;
  Operation operation_;
  Layout a_, b_, d_;
  std::vector<Algorithm> algorithms_;  // as the library proposes them, best first
  std::optional<size_t> fastest_;      // once it was measured
};

// The library's handle of a device, and the products that were asked of it.
class Library {
 public:
  Library() { LACE_CUBLAS(cublasLtCreate(&handle_)); }

  // One call at a time: the bias' place stands in the product's description.
  void run(const Context& context, const ProductKey& key, const Operands& operands) {
    const std::lock_guard lock(mutex_);
    std::unique_ptr<Product>& product = products_[key];
    if (!product) product = std::make_unique<Product>(handle_, key);
    product->run(context, operands);
  }

  // That of the current device. They live as long as the process.
  static Library& current() {
    int device = 0;
    LACE_CUDA(cudaGetDevice(&device));
    static std::mutex mutex;
    static auto& libraries = *new std::map<int, std::unique_ptr<Library>>;
    const std::lock_guard lock(mutex);
    std::unique_ptr<Library>& library = libraries[device];
    if (!library) library = std::make_unique<Library>();
    return *library;
  }

 private:
  cublasLtHandle_t handle_ = nullptr;
  std::mutex mutex_;
  std::map<ProductKey, std::unique_ptr<Product>> products_;
};

uint32_t alignment(const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  const uintptr_t lowest = address & (~address + 1);
  return static_cast<uint32_t>(address == 0 ? 256 : std::min<uintptr_t>(lowest, 256));
}

void run(const Context& context, ProductKey key, const Operands& operands) {
  key.alignments = {alignment(operands.a), alignment(operands.b), alignment(operands.d),
                    alignment(operands.bias)};
  Library::current().run(context, key, operands);
}

}  // namespace

// yᵀ [out, rows] = weight · xᵀ
void linear(const Context& context, const LinearArgs& args) {
  const LinearShape& s = args.shape;
  run(context,
      {CUBLAS_OP_T, CUBLAS_OP_N, s.out, s.rows, s.in, s.compute, s.compute,
       args.bias == nullptr ? CUBLASLT_EPILOGUE_DEFAULT : CUBLASLT_EPILOGUE_BIAS, false},
      {args.weight, args.x, args.y, args.bias});
}

// dxᵀ [in, rows] = weightᵀ · dyᵀ
void grad_input(const Context& context, const LinearGradInputArgs& args) {
  const LinearShape& s = args.shape;
  run(context,
      {CUBLAS_OP_N, CUBLAS_OP_N, s.in, s.rows, s.out, s.compute, s.compute,
       CUBLASLT_EPILOGUE_DEFAULT, false},
      {args.weight, args.dy, args.dx, nullptr});
}

// dweightᵀ [in, out] = xᵀ · dy
void grad_weight(const Context& context, const LinearGradWeightArgs& args) {
  const LinearShape& s = args.shape;
  run(context,
      {CUBLAS_OP_N, CUBLAS_OP_T, s.in, s.out, s.rows, s.compute, DType::kFloat32,
       CUBLASLT_EPILOGUE_DEFAULT, args.add},
      {args.x, args.dy, args.dweight, nullptr});
}

}  // namespace lace::cuda::products
