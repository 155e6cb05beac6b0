// Kernels of one warp around csrc/cuda/mma.h and async.h, for tests of their twins on the emulator.
#include "cuda/async.h"
#include "cuda/mma.h"
#include "cuda/tensors.h"

namespace aminet {
namespace {

template <typename T>
constexpr bool kSingle = std::is_same_v<T, Tf32>;
template <typename T>
using Data = std::conditional_t<kSingle<T>, float, T>;

// Elements k, k + 1 of 16 bits, or the one float rounded, as a register.
template <typename T>
__device__ uint32_t packed(const Data<T>* first, int stride) {
  if constexpr (kSingle<T>) {
    return to_tf32(first[0]);
  } else {
    uint16_t low, high;
    memcpy(&low, &first[0], 2);
    memcpy(&high, &first[stride], 2);
    return low | static_cast<uint32_t>(high) << 16;
  }
}

__device__ void put(float* d, const float (&sums)[4]) {
  const int group = threadIdx.x / 4, four = threadIdx.x % 4;
  for (int i = 0; i < 4; ++i) d[(group + i / 2 * 8) * 8 + 2 * four + i % 2] += sums[i];
}

// d [16, 8] += a [16, K] b [K, 8], all in rows, by the fragments that mma.h describes.
template <typename T>
__global__ void product(const Data<T>* a, const Data<T>* b, float* d) {
  constexpr int K = kSingle<T> ? 8 : 16, step = kSingle<T> ? 1 : 2;
  const int group = threadIdx.x / 4, four = threadIdx.x % 4;
  uint32_t of_a[4], of_b[2];
  for (int i = 0; i < 4; ++i) of_a[i] = packed<T>(&a[(group + i % 2 * 8) * K + step * four + i / 2 * K / 2], 1);
  for (int i = 0; i < 2; ++i) of_b[i] = packed<T>(&b[(step * four + i * K / 2) * 8 + group], 8);
  float sums[4] = {};
  mma<T>(sums, of_a, of_b);
  put(d, sums);
}

// The same by load_matrices. a_across: a is [16, 16] in shared memory as [k][m]; b_across: b as [n][k].
template <typename T, bool A_ACROSS, bool B_ACROSS>
__global__ void loaded(const T* a, const T* b, float* d) {
  AMINET_SHARED(T, of_a, [16][16]);
  AMINET_SHARED(T, of_b, [16 * 8]);
  const int lane = threadIdx.x;
  for (int i = lane; i < 256; i += 32) (A_ACROSS ? of_a[i % 16][i / 16] : of_a[i / 16][i % 16]) = a[i];
  for (int i = lane; i < 128; i += 32) of_b[B_ACROSS ? i % 8 * 16 + i / 8 : i] = b[i];
  __syncwarp();
  uint32_t fragments[4], columns[2];
  // Matrices in the order of the registers: rows 0-7 and 8-15 of k 0-7, then of k 8-15.
  const int row = lane % 8 + lane / 8 % 2 * 8, k = lane / 16 * 8;
  if constexpr (A_ACROSS)
    load_matrices<4, true>(fragments, &of_a[k + lane % 8][lane / 8 % 2 * 8]);
  else
    load_matrices<4>(fragments, &of_a[row][k]);
  const int which = lane / 8 % 2;
  if constexpr (B_ACROSS)
    load_matrices<2>(columns, &of_b[lane % 8 * 16 + which * 8]);
  else
    load_matrices<2, true>(columns, &of_b[(lane % 8 + which * 8) * 8]);
  float sums[4] = {};
  mma<T>(sums, fragments, columns);
  put(d, sums);
}

// The same of floats, a [16, 8] and b [8, 8]: a row of four of them is to load_matrices what eight of 16 bits are.
template <bool ROUNDED>
__global__ void loaded_floats(const float* a, const float* b, float* d) {
  AMINET_SHARED(float, of_a, [16][8]);
  AMINET_SHARED(float, of_b, [8][8]);  // [n][k]
  const auto kept = [](float v) { return ROUNDED ? __uint_as_float(to_tf32(v)) : v; };
  const int lane = threadIdx.x;
  for (int i = lane; i < 128; i += 32) of_a[i / 8][i % 8] = kept(a[i]);
  for (int i = lane; i < 64; i += 32) of_b[i % 8][i / 8] = kept(b[i]);
  __syncwarp();
  uint32_t fragments[4], columns[2];
  load_matrices<4>(fragments, &of_a[lane % 8 + lane / 8 % 2 * 8][lane / 16 * 4]);
  load_matrices<2>(columns, &of_b[lane % 8][lane / 8 % 2 * 4]);
  float sums[4] = {};
  mma<Tf32>(sums, fragments, columns);
  put(d, sums);
}

__global__ void rounded(const float* x, float* y) { y[threadIdx.x] = __uint_as_float(to_tf32(x[threadIdx.x])); }

// out [32, 2]: what each lane gets of the matrix x [8, 8] by load_matrices<1>.
template <typename T, bool TRANSPOSED>
__global__ void one_matrix(const T* x, T* out) {
  AMINET_SHARED(T, matrix, [8][8]);
  for (int i = threadIdx.x; i < 64; i += 32) matrix[i / 8][i % 8] = x[i];
  __syncwarp();
  uint32_t bits[1];
  // Lanes from 8 on name no row, and may point anywhere.
  load_matrices<1, TRANSPOSED>(bits, threadIdx.x < 8 ? matrix[threadIdx.x] : nullptr);
  memcpy(&out[2 * threadIdx.x], bits, 4);
}

// Copies of BYTES from x to y through shared memory; nothing of x behind `inside` bytes, but zeros.
template <int BYTES>
__global__ void copied(const unsigned char* x, unsigned char* y, int inside) {
  AMINET_SHARED(unsigned char, held, [32 * BYTES]);
  const int at = threadIdx.x * BYTES;
  copy_async<BYTES>(&held[at], at < inside ? &x[at] : nullptr, at < inside);
  commit_async();
  for (int i = 0; i < BYTES; ++i) y[32 * BYTES + at + i] = held[at + i];  // too early: a race on a GPU
  wait_async<0>();
  __syncthreads();
  for (int i = 0; i < BYTES; ++i) y[at + i] = held[at + i];
}

// Writes to all of its shared memory.
__global__ void fills(int bytes) {
  AMINET_DYNAMIC_SHARED(char, all);
  for (int i = threadIdx.x; i < bytes; i += blockDim.x) all[i] = 1;
}

void launch(const Tensor&, int64_t bytes, int64_t threads, int64_t blocks) {
  const dim3 grid(1, static_cast<unsigned>(blocks)), size(static_cast<unsigned>(threads));
  AMINET_LAUNCH(fills, grid, size, bytes, nullptr, static_cast<int>(bytes));
}

void products(const Tensor& a, const Tensor& b, Tensor d, int64_t way) {
  float* to = room_of<float>(d);
  if (a.scalar_type() == ScalarType::Float) {
    const float *from = data_of<float>(a), *other = data_of<float>(b);
    if (way == 0) AMINET_LAUNCH((product<Tf32>), 1, 32, 0, nullptr, from, other, to);
    if (way == 1) AMINET_LAUNCH((loaded_floats<true>), 1, 32, 0, nullptr, from, other, to);
    if (way == 2) AMINET_LAUNCH((loaded_floats<false>), 1, 32, 0, nullptr, from, other, to);
    return;
  }
  const auto run = [&](auto type) {
    using T = typename decltype(type)::type;
    const T *from = data_of<T>(a), *other = data_of<T>(b);
    if (way == 0) AMINET_LAUNCH((product<T>), 1, 32, 0, nullptr, from, other, to);
    if (way == 1) AMINET_LAUNCH((loaded<T, false, false>), 1, 32, 0, nullptr, from, other, to);
    if (way == 2) AMINET_LAUNCH((loaded<T, false, true>), 1, 32, 0, nullptr, from, other, to);
    if (way == 3) AMINET_LAUNCH((loaded<T, true, false>), 1, 32, 0, nullptr, from, other, to);
  };
  a.scalar_type() == ScalarType::Half ? run(Type<__half>{}) : run(Type<__nv_bfloat16>{});
}

// At most 1024 numbers.
void to_tf32_of(const Tensor& x, Tensor y) {
  AMINET_LAUNCH(rounded, 1, static_cast<unsigned>(x.numel()), 0, nullptr, data_of<float>(x), room_of<float>(y));
}

void matrices(const Tensor& x, Tensor out, bool transposed) {
  const auto *from = data_of<__half>(x);
  auto* to = room_of<__half>(out);
  if (transposed)
    AMINET_LAUNCH((one_matrix<__half, true>), 1, 32, 0, nullptr, from, to);
  else
    AMINET_LAUNCH((one_matrix<__half, false>), 1, 32, 0, nullptr, from, to);
}

void copies(const Tensor& x, Tensor y, int64_t bytes, int64_t inside) {
  const auto* from = data_of<unsigned char>(x);
  auto* to = room_of<unsigned char>(y);
  const int limit = static_cast<int>(inside);
  if (bytes == 4) AMINET_LAUNCH((copied<4>), 1, 32, 0, nullptr, from, to, limit);
  if (bytes == 8) AMINET_LAUNCH((copied<8>), 1, 32, 0, nullptr, from, to, limit);
  if (bytes == 16) AMINET_LAUNCH((copied<16>), 1, 32, 0, nullptr, from, to, limit);
}

}  // namespace
}  // namespace aminet

STABLE_TORCH_LIBRARY_FRAGMENT(aminet_fast_emulated, m) {
  m.def("twin_product(Tensor a, Tensor b, Tensor(c!) d, int way) -> ()");
  m.def("twin_tf32(Tensor x, Tensor(a!) y) -> ()");
  m.def("twin_matrix(Tensor x, Tensor(a!) out, bool transposed) -> ()");
  m.def("twin_launch(Tensor device, int bytes, int threads, int blocks) -> ()");
  m.def("twin_copy(Tensor x, Tensor(a!) y, int bytes, int inside) -> ()");
}
AMINET_CUDA_LIBRARY(m) {
  m.impl("twin_product", TORCH_BOX(&aminet::products));
  m.impl("twin_tf32", TORCH_BOX(&aminet::to_tf32_of));
  m.impl("twin_matrix", TORCH_BOX(&aminet::matrices));
  m.impl("twin_launch", TORCH_BOX(&aminet::launch));
  m.impl("twin_copy", TORCH_BOX(&aminet::copies));
}
