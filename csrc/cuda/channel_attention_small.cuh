// channel_attention's matrices of channels, between the passes over the pixels; everything in float, some MFLOP an image:
// latency only, so one launch does all there is to do between two passes.
//
// Heads have D channels: q k^T and attn are [D, D] a head, M = projection blockdiag(attn) is [C, C] an image.
#pragma once

#include "cuda/channel_attention_tile.cuh"

namespace aminet::channel_attention {

constexpr int kMostInHead = 96;   // attn of a head is in shared memory
constexpr int kFoldedRows = 48;   // of M, a block of the forward
constexpr float kSmallestNorm = 1e-12f;  // torch.nn.functional.normalize's

template <typename T>
struct Small {
  const float* parts;  // forward: [N, splits, C * D + 2C]; backward: [N, splits, C in, C out], the gradient of M^T
  float* gram;         // [N, C * D + 2C]: q k^T, squared norms of q's channels, of k's; written by the forward
  float* attn;         // [N, C, D]; likewise
  Parameter<T> temperature, projection;  // [heads], nothing: `scale`; [C out, C in]
  T* folded;                             // [N, C out, C in]: M
  int channels, heads, splits;
  float scale;
  bool normalised;
  // backward
  float* dfolded;       // [N, C in, C out]: room for the parts' sum
  T* mix;               // [N, heads, 2, D, 2, D]: [dq | dk] = [q | k] mix
  float* dprojection;   // [N, C out, C in]
  float* dtemperature;  // [N, heads]
};

// Parts' sum of element `i`, in their order.
__device__ __forceinline__ float added(const float* parts, int count, int64_t stride, int64_t i) {
  float total = 0;
#pragma unroll 8
  for (int part = 0; part < count; ++part) total += parts[part * stride + i];
  return total;
}

// 1 / max(norm, smallest), and its square where the norm is the larger, else 0: no gradient passes it then.
__device__ __forceinline__ float inverse_norm(float square, bool normalised) {
  return normalised ? 1.f / fmaxf(sqrtf(square), kSmallestNorm) : 1.f;
}
__device__ __forceinline__ float inverse_square(float square, bool normalised) {
  const float inverse = inverse_norm(square, normalised);
  return normalised && sqrtf(square) >= kSmallestNorm ? inverse * inverse : 0.f;
}

// M's columns of this head, rows first .. last - 1; attn [D, D] in shared memory.
template <typename T>
__device__ __forceinline__ void fold(const Small<T>& g, const float* attn, int64_t image, int head, int first, int last) {
  const int d = g.channels / g.heads;
  for (int e = threadIdx.x; e < (last - first) * d; e += kThreads) {
    const int o = first + e / d, j = e % d;
    const int64_t row = int64_t(o) * g.channels + head * d;
    float sum = 0;
    for (int i = 0; i < d; ++i) sum += g.projection.at(row + i) * attn[i * d + j];
    g.folded[image * g.channels * g.channels + row + j] = narrow<T>(sum);
  }
}

// One block a head and kFoldedRows rows of M: gram = the parts' sum, attn = its softmax, M.
template <typename T>
__global__ void __launch_bounds__(kThreads) softmax_kernel(Small<T> g) {
  AMINET_DYNAMIC_SHARED(float, attn);  // [D][D], then 2 D squares
  const int d = g.channels / g.heads, row_blocks = ceil_div(g.channels, kFoldedRows);
  const int row_block = blockIdx.x % row_blocks, head = blockIdx.x / row_blocks % g.heads;
  const int64_t image = blockIdx.x / row_blocks / g.heads;
  const int64_t matrices = int64_t(g.channels) * d, all = matrices + 2 * g.channels;
  const float* parts = g.parts + image * g.splits * all;
  float* gram = g.gram + image * all;
  float* squares = attn + d * d;
  for (int e = threadIdx.x; e < d * d + 2 * d; e += kThreads) {
    const int norm = e - d * d;  // q's, then k's
    const int64_t at = norm < 0 ? int64_t(head) * d * d + e
                                : matrices + norm / d * g.channels + head * d + norm % d;
    attn[e] = added(parts, g.splits, all, at);
    if (row_block == 0) gram[at] = attn[e];
  }
  __syncthreads();
  const float scale = g.normalised ? g.temperature.at(head) : g.scale;
  for (int i = threadIdx.x / 32; i < d; i += kThreads / 32) {  // a warp a row
    const float of_q = inverse_norm(squares[i], g.normalised) * scale;
    float most = -INFINITY, total = 0;
    for (int j = threadIdx.x % 32; j < d; j += 32) {
      attn[i * d + j] *= of_q * inverse_norm(squares[d + j], g.normalised);
      most = fmaxf(most, attn[i * d + j]);
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
      most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, distance));
    for (int j = threadIdx.x % 32; j < d; j += 32) total += attn[i * d + j] = expf(attn[i * d + j] - most);
    total = warp_sum(total);
    for (int j = threadIdx.x % 32; j < d; j += 32) {
      attn[i * d + j] /= total;
      if (row_block == 0) g.attn[image * matrices + int64_t(head * d + i) * d + j] = attn[i * d + j];
    }
  }
  __syncthreads();
  fold(g, attn, image, head, row_block * kFoldedRows, min(g.channels, (row_block + 1) * kFoldedRows));
}

// One block a head: the gradient of M becomes those of projection and temperature, and mix; M again, for dv.
template <typename T>
__global__ void __launch_bounds__(kThreads) dsoftmax_kernel(Small<T> g) {
  AMINET_DYNAMIC_SHARED(float, attn);  // [D][D]; then da, later mix times q k^T, [D][D]; 2 D squares; D sums
  const int c = g.channels, d = c / g.heads, head = blockIdx.x % g.heads;
  const int64_t image = blockIdx.x / g.heads, matrices = int64_t(c) * d;
  float* through = attn + d * d;
  float* squares = through + d * d;
  float* of_rows = squares + 2 * d;
  const float* gram = g.gram + image * (matrices + 2 * c) + int64_t(head) * d * d;
  const float* norms = g.gram + image * (matrices + 2 * c) + matrices + head * d;
  float* dfolded = g.dfolded + (image * c + head * d) * c;  // [D in][C out]
  const float* parts = g.parts + image * g.splits * c * c + int64_t(head) * d * c;
  for (int e = threadIdx.x; e < d * c; e += kThreads) dfolded[e] = added(parts, g.splits, int64_t(c) * c, e);
  for (int e = threadIdx.x; e < d * d; e += kThreads) attn[e] = g.attn[image * matrices + int64_t(head) * d * d + e];
  for (int e = threadIdx.x; e < 2 * d; e += kThreads) squares[e] = norms[e / d * c + e % d];
  __syncthreads();
  fold(g, attn, image, head, 0, c);
  for (int e = threadIdx.x; e < d * c; e += kThreads) {  // dprojection [out][i]
    const int o = e / d, i = e % d;
    float sum = 0;
    for (int j = 0; j < d; ++j) sum += attn[i * d + j] * dfolded[int64_t(j) * c + o];
    g.dprojection[(image * c + o) * c + head * d + i] = sum;
  }
  for (int e = threadIdx.x; e < d * d; e += kThreads) {  // da [i][j]
    const int i = e / d, j = e % d;
    float sum = 0;
    for (int o = 0; o < c; ++o) sum += g.projection.at(int64_t(o) * c + head * d + i) * dfolded[int64_t(j) * c + o];
    through[e] = sum;
  }
  __syncthreads();

  const float scale = g.normalised ? g.temperature.at(head) : g.scale;
  T* mix = g.mix + (image * g.heads + head) * 4 * d * d;  // [2][D][2][D]
  for (int i = threadIdx.x / 32; i < d; i += kThreads / 32) {
    const int lane = threadIdx.x % 32;
    float along = 0, to_temperature = 0, to_norm = 0;
    for (int j = lane; j < d; j += 32) along += attn[i * d + j] * through[i * d + j];
    along = warp_sum(along);
    const float of_q = inverse_norm(squares[i], g.normalised);
    for (int j = lane; j < d; j += 32) {
      const float dz = attn[i * d + j] * (through[i * d + j] - along) * of_q * inverse_norm(squares[d + j], g.normalised);
      to_temperature += dz * gram[i * d + j];
      const T mixed = narrow<T>(dz * scale);
      through[i * d + j] = widen(mixed) * gram[i * d + j];
      to_norm += through[i * d + j];
      mix[i * 2 * d + d + j] = mixed;
      mix[(d + j) * 2 * d + i] = mixed;
    }
    to_norm = warp_sum(to_norm);
    to_temperature = warp_sum(to_temperature);
    if (lane == 0) of_rows[i] = to_temperature;
    for (int j = lane; j < d; j += 32)
      mix[i * 2 * d + j] = narrow<T>(i == j ? -to_norm * inverse_square(squares[i], g.normalised) : 0.f);
  }
  __syncthreads();
  for (int e = threadIdx.x; e < d * d; e += kThreads) {
    const int i = e / d, j = e % d;
    float to_norm = 0;
    if (i == j)
      for (int row = 0; row < d; ++row) to_norm += through[row * d + j];
    mix[(d + i) * 2 * d + d + j] = narrow<T>(i == j ? -to_norm * inverse_square(squares[d + j], g.normalised) : 0.f);
  }
  if (threadIdx.x == 0 && g.normalised) {
    float total = 0;
    for (int i = 0; i < d; ++i) total += of_rows[i];
    g.dtemperature[image * g.heads + head] = total;
  }
}

// out[i] = the sum of parts[.][i] in an order of their count alone; of up to four such sums in one launch.
struct Total {
  const float* parts;
  int count;
  int64_t elements;
  void* out;
  bool single;  // out is float, else T
};
struct Totals {
  Total of[4];
};
constexpr int kTotalled = 32;  // elements of a block, which eight threads each add

template <typename T>
__global__ void __launch_bounds__(kThreads) total_kernel(Totals g) {
  constexpr int slices = kThreads / kTotalled;
  AMINET_SHARED(float, sums, [slices][kTotalled]);
  const Total& total = g.of[blockIdx.y];
  const int64_t i = int64_t(blockIdx.x) * kTotalled + threadIdx.x % kTotalled;
  const int slice = threadIdx.x / kTotalled;
  if (int64_t(blockIdx.x) * kTotalled >= total.elements) return;
  float sum = 0;
  if (i < total.elements)
#pragma unroll 4
    for (int part = slice; part < total.count; part += slices) sum += total.parts[part * total.elements + i];
  sums[slice][threadIdx.x % kTotalled] = sum;
  __syncthreads();
  if (slice > 0 || i >= total.elements) return;
  for (int other = 1; other < slices; ++other) sum += sums[other][threadIdx.x];
  if (total.single)
    static_cast<float*>(total.out)[i] = sum;
  else
    static_cast<T*>(total.out)[i] = narrow<T>(sum);
}

}  // namespace aminet::channel_attention
