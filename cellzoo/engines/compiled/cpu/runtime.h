// The runtime of compiled steps: products with weights that are packed once per sequence, the loop
// over time, and the parts of a tensor that inductor's code uses. Each thread runs its rows of the
// batch through all steps, so that no step waits for another thread.

#include <omp.h>
#include <torch/csrc/inductor/cpp_prefix.h>

#include <initializer_list>
#include <memory>
#include <vector>

namespace cellzoo {

// -- products ----------------------------------------------------------------------------------

template <typename T>
using Vector = at::vec::Vectorized<T>;

template <typename T>
constexpr int64_t LANES = Vector<T>::size();
constexpr int VECTORS = 2;  // in a tile's width
template <typename T>
constexpr int64_t WIDTH = VECTORS * LANES<T>;
constexpr int ROWS = sizeof(Vector<float>) >= 64 ? 8 : 6;  // in a tile: its sums fill the registers

// Computes c (R, columns) = [c +] a (R, depth) · panel (depth, WIDTH). Not inlined at every call.
template <typename T, int R>
C10_NOINLINE void tile(const T* a, int64_t a_row, int64_t a_step, const T* panel, T* c,
                       int64_t c_row, int64_t depth, int64_t columns, bool add) {
  Vector<T> sum[R][VECTORS];
  const bool whole = columns >= WIDTH<T>;
  const auto count = [&](int v) {
    return std::max<int64_t>(0, std::min<int64_t>(LANES<T>, columns - v * LANES<T>));
  };
  for (int r = 0; r < R; r++)
    for (int v = 0; v < VECTORS; v++) sum[r][v] = Vector<T>(T(0));
  for (int64_t k = 0; k < depth; k++) {
    Vector<T> b[VECTORS];
    for (int v = 0; v < VECTORS; v++) b[v] = Vector<T>::loadu(panel + k * WIDTH<T> + v * LANES<T>);
    for (int r = 0; r < R; r++) {
      const Vector<T> x(a[r * a_row + k * a_step]);
      for (int v = 0; v < VECTORS; v++) sum[r][v] = at::vec::fmadd(x, b[v], sum[r][v]);
    }
  }
  for (int r = 0; r < R; r++)
    for (int v = 0; v < VECTORS; v++) {
      T* to = c + r * c_row + v * LANES<T>;
      if (whole) {
        (add ? Vector<T>::loadu(to) + sum[r][v] : sum[r][v]).store(to);
      } else if (count(v)) {
        (add ? Vector<T>::loadu(to, count(v)) + sum[r][v] : sum[r][v]).store(to, count(v));
      }
    }
}

template <typename T, int R = ROWS>
inline void tile_of(int64_t rows, const T* a, int64_t a_row, int64_t a_step, const T* panel, T* c,
                    int64_t c_row, int64_t depth, int64_t columns, bool add) {
  if (rows == R) tile<T, R>(a, a_row, a_step, panel, c, c_row, depth, columns, add);
  else if constexpr (R > 1)
    tile_of<T, R - 1>(rows, a, a_row, a_step, panel, c, c_row, depth, columns, add);
}

// Packs a matrix (depth, columns) as consecutive panels of WIDTH columns, padded with zeros.
template <typename T, typename From>
void pack(const From* b, int64_t b_step, int64_t b_column, int64_t depth, int64_t columns, T* to) {
  for (int64_t n = 0; n < columns; n += WIDTH<T>, to += depth * WIDTH<T>) {
    const int64_t width = std::min(WIDTH<T>, columns - n);
    if (b_column == 1 && width == WIDTH<T>) {
      for (int64_t k = 0; k < depth; k++)
#pragma omp simd
        for (int64_t j = 0; j < WIDTH<T>; j++) to[k * WIDTH<T> + j] = T(b[k * b_step + n + j]);
    } else {
      for (int64_t j = 0; j < WIDTH<T>; j++)
        for (int64_t k = 0; k < depth; k++)
          to[k * WIDTH<T> + j] = j < width ? T(b[(n + j) * b_column + k * b_step]) : T(0);
    }
  }
}

template <typename T>
int64_t packed_size(int64_t depth, int64_t columns) {
  return (columns + WIDTH<T> - 1) / WIDTH<T> * WIDTH<T> * depth;
}

// Computes c (rows, columns) = [c +] a (rows, depth) · the packed matrix.
template <typename T>
void multiply(const T* a, int64_t a_row, const T* packed, T* c, int64_t c_row, int64_t rows,
              int64_t depth, int64_t columns, bool add) {
  const int64_t tiles = (rows + ROWS - 1) / ROWS;
  for (int64_t n = 0; n < columns; n += WIDTH<T>, packed += depth * WIDTH<T>)
    for (int64_t i = 0; i < tiles; i++) {
      const int64_t first = i * rows / tiles, next = (i + 1) * rows / tiles;
      tile_of<T>(next - first, a + first * a_row, a_row, 1, packed, c + first * c_row + n, c_row,
                 depth, columns - n, add);
    }
}

template <typename T>
struct Buffer {  // aligned, uninitialised memory
  int64_t size;
  std::unique_ptr<char[]> owned;
  T* data;
  explicit Buffer(int64_t size)
      : size(size),
        owned(new char[size * sizeof(T) + 64]),
        data(reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(owned.get()) + 63) & ~63ull)) {}
};

// -- functions of vectors ----------------------------------------------------------------------

template <typename V>
inline V exp(const V& x) { return x.exp(); }
template <typename V>
inline V tanh(const V& x) { return x.tanh(); }

#if defined(CPU_CAPABILITY_AVX512) || defined(CPU_CAPABILITY_AVX2)
// Single precision, without a call that would save every register. They return nan for nan.

template <typename... Floats>
inline Vector<float> polynomial(const Vector<float>& x, float first, Floats... others) {
  if constexpr (sizeof...(others) == 0) return Vector<float>(first);
  else return at::vec::fmadd(x, polynomial(x, others...), Vector<float>(first));
}

// Accurate to 2 units in the last place: 2^n e^r, with n ln 2 + r = x. 0 below -87.
template <>
inline Vector<float> exp(const Vector<float>& given) {
  using at::vec::fmadd;
  const auto x = at::vec::clamp(given, Vector<float>(-87.3f), Vector<float>(89.f));
  const auto n = fmadd(x, Vector<float>(1.44269504f), Vector<float>(0.5f)).floor();
  auto r = fmadd(n, Vector<float>(-0.693359375f), x);  // ln 2 in two parts, the first is exact
  r = fmadd(n, Vector<float>(2.12194440e-4f), r);
  const auto power = polynomial(r, 1.f, 1.f, 0.499999934f, 0.166665201f, 0.0416683942f,
                                0.00836878041f, 0.00138144669f);
  // n may be 128, and 2^128 overflows.
  const auto half = at::vec::convert_to_int_of_same_size(n) + Vector<int32_t>(126);
  return power * at::vec::cast<float>(half << Vector<int32_t>(23)) * Vector<float>(2.f);
}

// Accurate to 5 units in the last place: minimax x P(x^2) / Q(x^2), up to where it rounds to 1.
template <>
inline Vector<float> tanh(const Vector<float>& given) {
  const auto x = at::vec::clamp(given, Vector<float>(-9.02f), Vector<float>(9.02f));
  const auto z = x * x;
  const auto p = polynomial(z, 0.999999979f, 0.133797179f, 0.00349403456f, 2.05834817e-5f,
                            1.33190730e-8f);
  const auto q = polynomial(z, 1.f, 0.467130332f, 0.0258710732f, 3.28309286e-4f, 7.76201978e-7f);
  return at::vec::clamp(x * p / q, Vector<float>(-1.f), Vector<float>(1.f));
}
#endif

// -- tensors -----------------------------------------------------------------------------------

// torch's numbers of its dtypes.
constexpr int32_t cached_torch_dtype_int64 = 4, cached_torch_dtype_float32 = 6,
                  cached_torch_dtype_float64 = 7, cached_torch_dtype_bool = 11,
                  cached_torch_dtype_bfloat16 = 15, cached_torch_dtype_int32 = 3,
                  cached_torch_device_type_cpu = 0;
#define CACHE_TORCH_DTYPE(name)
#define CACHE_TORCH_DEVICE(name)
#undef AOTI_TORCH_ERROR_CODE_CHECK
#define AOTI_TORCH_ERROR_CODE_CHECK(call) (call)

inline int64_t bytes_of(int32_t dtype) {
  switch (dtype) {
    case cached_torch_dtype_float32:
    case cached_torch_dtype_int32: return 4;
    case cached_torch_dtype_bfloat16: return 2;
    case cached_torch_dtype_bool: return 1;
    default: return 8;
  }
}

constexpr int64_t DIMS = 6;

struct Tensor {
  char* base = nullptr;  // the start of its storage
  char* data = nullptr;
  int32_t dtype = 0;
  int64_t dims = 0, size[DIMS] = {}, stride[DIMS] = {};

  void* data_ptr() const { return data; }
  const int64_t* sizes() const { return size; }
  const int64_t* strides() const { return stride; }
  void reset() {}
  Tensor release() { return *this; }
};

// The state of a thread: the memory of one step, and the weights that it has packed.
struct Worker {
  struct Packed {
    const void* weight;
    int64_t step, column;
    Buffer<char> panels;
  };
  std::vector<Buffer<char>> chunks;
  int64_t used = 0;  // bytes of the last chunk
  std::vector<Packed> packed;

  char* allocate(int64_t bytes) {
    bytes = (bytes + 63) & ~63ll;
    const int64_t size = chunks.empty() ? 0 : chunks.back().size;
    if (used + bytes > size) {
      chunks.emplace_back(std::max({2 * size, bytes, int64_t(1) << 16}));  // smaller ones stay until the sequence ends
      used = 0;
    }
    used += bytes;
    return chunks.back().data + used - bytes;
  }

  bool made_in_step(const void* place) const {
    return std::any_of(chunks.begin(), chunks.end(), [&](const auto& each) {
      return each.data <= place && place < each.data + each.size;
    });
  }

  template <typename T, typename From>
  const T* panels_of(const From* weight, int64_t step, int64_t column, int64_t depth,
                     int64_t columns) {
    const int64_t bytes = packed_size<T>(depth, columns) * sizeof(T);
    T* to;
    if (made_in_step(weight)) {  // a later step may reuse its address
      to = reinterpret_cast<T*>(allocate(bytes));
    } else {
      for (const auto& each : packed)
        if (each.weight == weight && each.step == step && each.column == column)
          return reinterpret_cast<const T*>(each.panels.data);
      packed.push_back({weight, step, column, Buffer<char>(bytes)});
      to = reinterpret_cast<T*>(packed.back().panels.data);
    }
    pack(weight, step, column, depth, columns, to);
    return to;
  }
};

inline Worker*& worker() {
  static thread_local Worker* current = nullptr;
  return current;
}

// Computes c = [c +] a · weight. The weight (depth, columns) has any strides; all steps share it.
template <typename T>
void product(const Tensor& c, const Tensor& a, const Tensor& weight, bool add) {
  const int64_t rows = a.size[0], depth = a.size[1], columns = weight.size[1];
  const T* from = reinterpret_cast<const T*>(a.data);
  int64_t a_row = a.stride[0];
  if (a.stride[1] != 1 && depth > 1) {
    T* copy = reinterpret_cast<T*>(worker()->allocate(rows * depth * sizeof(T)));
    for (int64_t r = 0; r < rows; r++)
      for (int64_t k = 0; k < depth; k++)
        copy[r * depth + k] = from[r * a.stride[0] + k * a.stride[1]];
    from = copy;
    a_row = depth;
  }
  const T* panels = worker()->panels_of<T>(reinterpret_cast<const T*>(weight.data),
                                           weight.stride[0], weight.stride[1], depth, columns);
  multiply(from, a_row, panels, reinterpret_cast<T*>(c.data), c.stride[0], rows, depth, columns,
           add);
}

// The same with a half-precision weight: a and the product are rounded to its precision.
template <typename A>
void half_product(const Tensor& c, const Tensor& a, const Tensor& weight, bool add) {
  const int64_t rows = a.size[0], depth = a.size[1], columns = weight.size[1];
  using Half = c10::BFloat16;
  float* rounded = reinterpret_cast<float*>(worker()->allocate(rows * depth * sizeof(float)));
  float* found = reinterpret_cast<float*>(worker()->allocate(rows * columns * sizeof(float)));
  const A* from = reinterpret_cast<const A*>(a.data);
  for (int64_t r = 0; r < rows; r++)
    for (int64_t k = 0; k < depth; k++)
      rounded[r * depth + k] = float(Half(float(from[r * a.stride[0] + k * a.stride[1]])));
  const float* panels = worker()->panels_of<float>(
      reinterpret_cast<const Half*>(weight.data), weight.stride[0], weight.stride[1], depth,
      columns);
  multiply(rounded, depth, panels, found, columns, rows, depth, columns, false);
  for (int64_t r = 0; r < rows; r++)
    for (int64_t n = 0; n < columns; n++) {
      const float value = float(Half(found[r * columns + n]));
      if (c.dtype == cached_torch_dtype_float32) {
        float& to = reinterpret_cast<float*>(c.data)[r * c.stride[0] + n];
        to = add ? to + value : value;
      } else {
        Half& to = reinterpret_cast<Half*>(c.data)[r * c.stride[0] + n];
        to = add ? Half(float(to) + value) : Half(value);
      }
    }
}

inline void product_of(const Tensor& c, const Tensor& a, const Tensor& weight, bool add) {
  if (weight.dtype == cached_torch_dtype_float32) product<float>(c, a, weight, add);
  else if (weight.dtype == cached_torch_dtype_float64) product<double>(c, a, weight, add);
  else if (a.dtype == cached_torch_dtype_float32) half_product<float>(c, a, weight, add);
  else half_product<c10::BFloat16>(c, a, weight, add);
}

// -- functions that inductor's code calls, under inductor's names --------------------------------

using AtenTensorHandle = Tensor;
using RAIIAtenTensorHandle = Tensor;
namespace py {
struct gil_scoped_release_simple {
  gil_scoped_release_simple() {}  // the caller has released it
};
}  // namespace py

inline Tensor* steal_from_raw_handles_to_raii_handles(Tensor* handles, size_t) { return handles; }
inline const Tensor& wrap_with_raii_handle_if_needed(const Tensor& tensor) { return tensor; }
inline void assert_size_stride(const Tensor&, std::initializer_list<int64_t>,
                               std::initializer_list<int64_t>, const char*) {}

inline void aoti_torch_empty_strided(int64_t dims, const int64_t* size, const int64_t* stride,
                                     int32_t dtype, int32_t, int32_t, Tensor* made) {
  made->dtype = dtype;
  made->dims = dims;
  int64_t last = 0;
  for (int64_t d = 0; d < dims; d++) {
    made->size[d] = size[d];
    made->stride[d] = stride[d];
    last += (size[d] - 1) * stride[d];
  }
  made->base = made->data = worker()->allocate((last + 1) * bytes_of(dtype));
}

inline void aoti_torch_new_tensor_handle(const Tensor& tensor, Tensor* made) { *made = tensor; }
inline void aoti_torch_assign_tensors_out(const Tensor& tensor, Tensor* made) { *made = tensor; }

inline Tensor reinterpret_tensor_wrapper(const Tensor& tensor, int64_t dims, const int64_t* size,
                                         const int64_t* stride, int64_t offset) {
  Tensor made = tensor;
  made.dims = dims;
  made.data = tensor.base + offset * bytes_of(tensor.dtype);
  for (int64_t d = 0; d < dims; d++) {
    made.size[d] = size[d];
    made.stride[d] = stride[d];
  }
  return made;
}

inline Tensor matrix_of(const Tensor& tensor, int64_t number) {  // tensor: (batch, rows, columns)
  Tensor made = tensor;
  made.data += number * tensor.stride[0] * bytes_of(tensor.dtype);
  for (int64_t d = 0; d < 2; d++) {
    made.size[d] = tensor.size[d + 1];
    made.stride[d] = tensor.stride[d + 1];
  }
  made.dims = 2;
  return made;
}

inline void aoti_torch_cpu_mm_out(const Tensor& out, const Tensor& a, const Tensor& b) {
  product_of(out, a, b, false);
}

inline void aoti_torch_cpu_addmm_out(const Tensor& out, const Tensor& added, const Tensor& a,
                                     const Tensor& b, double beta, double alpha) {
  if (beta != 1 || alpha != 1) throw std::runtime_error("a product that is scaled");
  const int64_t row = added.dims == 2 ? added.stride[0] : 0;
  const int64_t column = added.stride[added.dims - 1], bytes = bytes_of(out.dtype);
  for (int64_t r = 0; r < out.size[0]; r++)
    for (int64_t n = 0; n < out.size[1]; n++)
      std::memcpy(out.data + (r * out.stride[0] + n) * bytes,
                  added.data + (r * row + n * column) * bytes, bytes);
  product_of(out, a, b, true);
}

// One product per head. The weight is (batch, depth, columns).
inline void aoti_torch_cpu_bmm_out(const Tensor& out, const Tensor& a, const Tensor& b) {
  if (out.stride[2] != 1) throw std::runtime_error("a product whose columns lie apart");
  for (int64_t i = 0; i < out.size[0]; i++)
    product_of(matrix_of(out, i), matrix_of(a, i), matrix_of(b, i), false);
}

template <typename T>
void cumulative(const Tensor& x, const Tensor& y) {
  const int64_t columns = x.size[1];
  for (int64_t r = 0; r < x.size[0]; r++) {
    T sum = 0;
    for (int64_t n = 0; n < columns; n++)
      reinterpret_cast<T*>(y.data)[r * columns + n] = sum +=
          reinterpret_cast<const T*>(x.data)[r * x.stride[0] + n * x.stride[1]];
  }
}

inline void aoti_torch_cpu_cumsum(const Tensor& x, int64_t dim, const int32_t* dtype, Tensor* made) {
  const bool is_double = x.dtype == cached_torch_dtype_float64;
  if (x.dims != 2 || (dim != 1 && dim != -1) || dtype || !(is_double || x.dtype == cached_torch_dtype_float32))
    throw std::runtime_error("a cumulative sum of another kind than of rows of numbers");
  const int64_t strides[] = {x.size[1], 1};
  aoti_torch_empty_strided(2, x.size, strides, x.dtype, 0, 0, made);
  if (is_double) cumulative<double>(x, *made);
  else cumulative<float>(x, *made);
}

// -- the loop over time ------------------------------------------------------------------------

// The number of sequences at each step, the longest first. Tensors over time lie step by step, with
// a row for each sequence that runs: the rows of step t begin at row offset[t]. The step before the
// first has rows for the whole batch.
struct Batch {
  int64_t steps;
  const int64_t *sizes, *bounds;  // sequences per step; the start of each part, and the batch's end
  std::vector<int64_t> offsets;

  Batch(int64_t steps, const int64_t* sizes, const int64_t* bounds)
      : steps(steps), sizes(sizes), bounds(bounds), offsets{-sizes[0], 0} {
    for (int64_t t = 0; t < steps; t++) offsets.push_back(offsets.back() + sizes[t]);
  }
  int64_t offset(int64_t step) const { return offsets[step + 1]; }
};

// An argument of a step, with strides in bytes: rows over time, where the step sees those of step
// (step + first); two turns, where it sees turn (step + first) modulo 2; or a shared tensor.
struct Argument {
  char* data;
  int64_t timed, turn, first, row, part, dtype, dims, batched, size[DIMS];

  char* at(const Batch& batch, int64_t step, int64_t number) const {
    const int64_t place = step + first, first_row = batch.bounds[number];
    return data + row * (timed ? batch.offset(place) + first_row : first_row) +
           turn * (place % 2) + part * number;
  }
};

// Argument `to` [+]= argument `of` · weight, before a forward step or after a backward step.
struct Product {
  char* weight;
  int64_t of, to, add, depth, columns, step, column, dtype;
};

inline Tensor tensor_of(const Argument& argument) {  // without address and number of rows
  Tensor made;
  made.dtype = argument.dtype;
  made.dims = argument.dims;
  int64_t stride = 1;
  for (int64_t d = made.dims - 1; d >= 0; d--) {
    made.size[d] = argument.size[d];
    made.stride[d] = stride;
    stride *= made.size[d];
  }
  return made;
}

void inductor_entry_impl(Tensor* inputs, Tensor* outputs);  // one step: inductor's code

// Runs one part of the batch, from the first step to the last, or from the last to the first.
inline void run_part(const Batch& batch, int64_t part, bool backwards, const Argument* arguments,
                     int64_t number, const Product* products, int64_t multiplied) {
  Worker mine;
  worker() = &mine;
  std::vector<Tensor> now;
  for (int64_t i = 0; i < number; i++) now.push_back(tensor_of(arguments[i]));
  const auto multiply_all = [&] {
    for (int64_t i = 0; i < multiplied; i++) {
      const Product& each = products[i];
      Tensor weight;
      weight.data = each.weight;
      weight.dtype = each.dtype;
      weight.size[0] = each.depth;
      weight.size[1] = each.columns;
      weight.stride[0] = each.step;
      weight.stride[1] = each.column;
      Tensor of = now[each.of];
      of.size[1] = each.depth;
      product_of(now[each.to], of, weight, each.add);
    }
  };
  for (int64_t t = 0; t < batch.steps; t++) {
    const int64_t step = backwards ? batch.steps - 1 - t : t;
    const int64_t rows = std::min(batch.sizes[step], batch.bounds[part + 1]) - batch.bounds[part];
    if (rows <= 0) continue;  // all its sequences have ended or, backwards, not begun
    for (int64_t i = 0; i < number; i++) {
      now[i].base = now[i].data = arguments[i].at(batch, step, part);
      if (arguments[i].batched) now[i].size[0] = rows;
    }
    mine.used = 0;
    if (!backwards) multiply_all();
    inductor_entry_impl(now.data(), nullptr);
    if (backwards) multiply_all();
  }
  worker() = nullptr;
}

// Computes c (columns of g, columns of v) = gᵀ · v over all rows, and the sums of g's columns.
template <typename T>
void outer(const T* g, const T* v, T* c, T* sums, int64_t rows, int64_t m, int64_t n,
           int64_t threads) {
  constexpr int64_t BLOCK = 256;  // rows at a time: their packed panels stay in the cache
  const int64_t tiles = (m + ROWS - 1) / ROWS;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const int64_t team = omp_get_num_threads(), me = omp_get_thread_num();
    const int64_t from = me * tiles / team * ROWS;
    const int64_t to = std::min(m, (me + 1) * tiles / team * ROWS);
    Buffer<T> left((to - from + ROWS) * BLOCK), right(packed_size<T>(BLOCK, n));
    if (sums) std::fill(sums + from, sums + to, T(0));
    for (int64_t k = 0; k < rows && from < to; k += BLOCK) {
      const int64_t depth = std::min(BLOCK, rows - k);
      pack(v + k * n, n, 1, depth, n, right.data);
      T* packed = left.data;
      for (int64_t i = from; i < to; i += ROWS, packed += depth * ROWS) {
        const int64_t width = std::min<int64_t>(ROWS, to - i);
        const T* from_g = g + k * m + i;
        T total[ROWS] = {};
        if (width == ROWS) {
          for (int64_t r = 0; r < depth; r++)
#pragma omp simd
            for (int j = 0; j < ROWS; j++) total[j] += packed[r * ROWS + j] = from_g[r * m + j];
        } else {
          for (int64_t r = 0; r < depth; r++)
            for (int64_t j = 0; j < width; j++)
              total[j] += packed[r * ROWS + j] = from_g[r * m + j];
        }
        if (sums)
          for (int64_t j = 0; j < width; j++) sums[i + j] += total[j];
      }
      const T* panel = right.data;
      for (int64_t j = 0; j < n; j += WIDTH<T>, panel += depth * WIDTH<T>)
        for (int64_t i = from; i < to; i += ROWS)
          tile_of<T>(std::min<int64_t>(ROWS, to - i), left.data + (i - from) * depth, 1, ROWS,
                     panel, c + i * n + j, n, depth, n - j, k > 0);
    }
  }
}

// Computes y (rows, n) = x (rows, depth) · weightᵀ + bias, for a weight (n, depth).
template <typename T>
void linear(const T* x, const T* weight, const T* bias, T* y, int64_t rows, int64_t depth,
            int64_t n, int64_t threads) {
  constexpr int64_t BLOCK = 8 * ROWS;
  Buffer<T> panels(packed_size<T>(depth, n));
  pack(weight, 1, depth, depth, n, panels.data);
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t first = 0; first < rows; first += BLOCK) {
    const int64_t some = std::min(BLOCK, rows - first);
    if (bias)
      for (int64_t r = first; r < first + some; r++) std::copy(bias, bias + n, y + r * n);
    multiply(x + first * depth, depth, panels.data, y + first * n, n, some, depth, n, bias);
  }
}

}  // namespace cellzoo

extern "C" const char* cellzoo_run(int64_t steps, const int64_t* sizes, int64_t parts,
                                   const int64_t* bounds, int64_t backwards,
                                   const cellzoo::Argument* arguments, int64_t number,
                                   const cellzoo::Product* products, int64_t multiplied) {
  static thread_local std::string error;
  error.clear();
  const cellzoo::Batch batch(steps, sizes, bounds);
#pragma omp parallel num_threads(parts) if (parts > 1)
  for (int64_t part = omp_get_thread_num(); part < parts; part += omp_get_num_threads()) {
    try {
      cellzoo::run_part(batch, part, backwards, arguments, number, products, multiplied);
    } catch (const std::exception& raised) {
#pragma omp critical
      error = raised.what();
    }
  }
  return error.empty() ? nullptr : error.c_str();
}

extern "C" void cellzoo_outer(int64_t is_double, const void* g, const void* v, void* c, void* sums,
                              int64_t rows, int64_t m, int64_t n, int64_t threads) {
  if (is_double)
    cellzoo::outer((const double*)g, (const double*)v, (double*)c, (double*)sums, rows, m, n,
                   threads);
  else
    cellzoo::outer((const float*)g, (const float*)v, (float*)c, (float*)sums, rows, m, n, threads);
}

extern "C" void cellzoo_linear(int64_t is_double, const void* x, const void* weight,
                               const void* bias, void* y, int64_t rows, int64_t depth, int64_t n,
                               int64_t threads) {
  if (is_double)
    cellzoo::linear((const double*)x, (const double*)weight, (const double*)bias, (double*)y, rows,
                    depth, n, threads);
  else
    cellzoo::linear((const float*)x, (const float*)weight, (const float*)bias, (float*)y, rows,
                    depth, n, threads);
}
