// The products of linear layers by cuBLASLt, with its epilogues that add a bias and sum a bias'
// gradient. cuBLASLt is column by column: our row-by-row matrices are its transposes.

#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>

#include <cublasLt.h>

#include "kernels/cuda/cuda_check.h"
#include "kernels/products/products.h"

namespace lace {

namespace {

#define LACE_CUBLAS(call)                                                                         \
  do {                                                                                            \
    if (const cublasStatus_t lace_status = (call); lace_status != CUBLAS_STATUS_SUCCESS)          \
        [[unlikely]]                                                                              \
      throw Error(concat("[cublas] ", #call, " failed: ", cublasLtGetStatusString(lace_status))); \
  } while (false)

constexpr size_t kWorkspaceBytes = size_t{32} << 20;

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
  std::array<uint32_t, 4> alignments;  // of A, B, D and the bias, in bytes

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

// A product that is ready to run, or that the library does not have.
struct Product {
  Operation operation;
  Layout a, b, d;
  cublasLtMatmulAlgo_t algorithm{};
  bool found = false;

  Product(cublasLtHandle_t handle, const ProductKey& key) {
    cublasLtMatmulDesc_t created = nullptr;
    LACE_CUBLAS(cublasLtMatmulDescCreate(&created, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    operation.reset(created);
    set(operation, CUBLASLT_MATMUL_DESC_TRANSA, key.a_op);
    set(operation, CUBLASLT_MATMUL_DESC_TRANSB, key.b_op);
    set(operation, CUBLASLT_MATMUL_DESC_EPILOGUE, key.epilogue);
    if (key.epilogue != CUBLASLT_EPILOGUE_DEFAULT) {
      set(operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, cuda_type(key.result));
    }
    const bool a_as_is = key.a_op == CUBLAS_OP_N, b_as_is = key.b_op == CUBLAS_OP_N;
    a = make_layout(key.compute, a_as_is ? key.m : key.k, a_as_is ? key.k : key.m);
    b = make_layout(key.compute, b_as_is ? key.k : key.n, b_as_is ? key.n : key.k);
    d = make_layout(key.result, key.m, key.n);
    find(handle, key);
  }

 private:
  void find(cublasLtHandle_t handle, const ProductKey& key) {
    cublasLtMatmulPreference_t created = nullptr;
    LACE_CUBLAS(cublasLtMatmulPreferenceCreate(&created));
    const Preference preference(created);
    set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.alignments[0]);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.alignments[1]);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.alignments[2]);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.alignments[2]);
    cublasLtMatmulHeuristicResult_t best{};
    int count = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle, operation.get(), a.get(), b.get(), d.get(), d.get(),
                                       preference.get(), 1, &best, &count);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || (status == CUBLAS_STATUS_SUCCESS && count == 0)) {
      return;
    }
    LACE_CUBLAS(status);
    LACE_CUBLAS(best.state);
    algorithm = best.algo;
    found = true;
  }
};

// The library's handle of a device, and the products that were asked of it.
class Library {
 public:
  Library() { LACE_CUBLAS(cublasLtCreate(&handle_)); }

  cublasLtHandle_t handle() const { return handle_; }
  const Product& product(const ProductKey& key) {
    const std::lock_guard lock(mutex_);
    std::unique_ptr<Product>& product = products_[key];
    if (!product) product = std::make_unique<Product>(handle_, key);
    return *product;
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

struct Operands {
  const void *a, *b;
  void* d;
  const void* bias;
};

// False where the library has no such product.
bool run(const Context& context, ProductKey key, const Operands& operands) {
  key.alignments = {alignment(operands.a), alignment(operands.b), alignment(operands.d),
                    alignment(operands.bias)};
  Library& library = Library::current();
  const Product& product = library.product(key);
  if (!product.found) return false;
  // The bias' place stands in the description: a call that shares it must not see another's.
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  if (operands.bias != nullptr) {
    set(product.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, operands.bias);
  }
  const Workspace workspace = context.allocate(kWorkspaceBytes);
  const float one = 1, beta = key.add ? 1 : 0;
  LACE_CUBLAS(cublasLtMatmul(library.handle(), product.operation.get(), &one, operands.a,
                             product.a.get(), operands.b, product.b.get(), &beta, operands.d,
                             product.d.get(), operands.d, product.d.get(), &product.algorithm,
                             workspace.get(), kWorkspaceBytes,
                             static_cast<cudaStream_t>(context.stream)));
  return true;
}

void check_found(bool found, const LinearShape& shape) {
  LACE_CHECK(found, "[cublas] the library must have this product, got rows ", shape.rows, ", in ",
             shape.in, ", out ", shape.out);
}

// yᵀ [out, rows] = weight · xᵀ
void linear(const Context& context, const LinearArgs& args) {
  const LinearShape& s = args.shape;
  const ProductKey key{
      CUBLAS_OP_T, CUBLAS_OP_N,
      s.out,       s.rows,
      s.in,        s.compute,
      s.compute,   args.bias == nullptr ? CUBLASLT_EPILOGUE_DEFAULT : CUBLASLT_EPILOGUE_BIAS,
      false,       {}};
  check_found(run(context, key, {args.weight, args.x, args.y, args.bias}), s);
}

// dxᵀ [in, rows] = weightᵀ · dyᵀ
void grad_input(const Context& context, const LinearGradInputArgs& args) {
  const LinearShape& s = args.shape;
  const ProductKey key{CUBLAS_OP_N, CUBLAS_OP_N, s.in,      s.rows,
                       s.out,       s.compute,   s.compute, CUBLASLT_EPILOGUE_DEFAULT,
                       false,       {}};
  check_found(run(context, key, {args.weight, args.dy, args.dx, nullptr}), s);
}

// dweightᵀ [in, out] = xᵀ · dy, and with BGRADB the sums of dy
bool grad_weight(const Context& context, const LinearGradWeightArgs& args) {
  const LinearShape& s = args.shape;
  const ProductKey key{
      CUBLAS_OP_N,
      CUBLAS_OP_T,
      s.in,
      s.out,
      s.rows,
      s.compute,
      DType::kFloat32,
      args.bias_sum == nullptr ? CUBLASLT_EPILOGUE_DEFAULT : CUBLASLT_EPILOGUE_BGRADB,
      args.add,
      {}};
  const bool found = run(context, key, {args.x, args.dy, args.dweight, args.bias_sum});
  if (args.bias_sum == nullptr) check_found(found, s);
  return found;
}

constexpr Products kCublas = {linear, grad_input, grad_weight};

}  // namespace

const Products* products(Device device) { return device == Device::kCuda ? &kCublas : nullptr; }

}  // namespace lace
