// Products of a warp on tensor cores, D += A B, with A [16, K], B [K, 8], D [16, 8] float (PTX: mma.sync.m16n8kK).
//
// A lane's part, with group = lane / 4 and four = lane % 4; a 32-bit register holds two neighbours in k of 16 bits
// each (the lower k in the lower half), or one float for tf32:
//
//   16 bits, K = 16   a[0] = A[group][2 four], a[1] = A[group + 8][2 four], a[2] = A[group][2 four + 8],
//                     a[3] = A[group + 8][2 four + 8];  b[0] = B[2 four][group], b[1] = B[2 four + 8][group]
//   tf32, K = 8       a[0] = A[group][four], a[1] = A[group + 8][four], a[2] = A[group][four + 4],
//                     a[3] = A[group + 8][four + 4];    b[0] = B[four][group], b[1] = B[four + 4][group]
//   both              d[0], d[1] = D[group][2 four], [2 four + 1];  d[2], d[3] = D[group + 8][the same]
//
// load_matrices brings 8x8 matrices of 16 bits from rows in shared memory into that form (PTX: ldmatrix): the rows of
// matrix i start where lanes 8 i .. 8 i + 7 point (16 bytes, aligned), and lane l gets elements 2 (l % 4) and the next
// of row l / 4; transposed: of column l / 4. All 32 lanes must come along to all of these.
#pragma once

#include "cuda/device.h"

namespace aminet {

struct Tf32 {};  // stands for float data that tensor cores round to 10 bits of mantissa

// The bits of a float as tf32, rounded to nearest (ties away from zero, as cvt.rna does).
__device__ __forceinline__ uint32_t to_tf32(float v) {
#ifdef __CUDACC__
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(bits) : "f"(v));
  return bits;
#else
  return emulated::to_tf32(v);
#endif
}

template <typename T>
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef __CUDACC__
  if constexpr (std::is_same_v<T, __nv_bfloat16>)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else if constexpr (std::is_same_v<T, __half>)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  emulated::mma<T>(d, a, b);
#endif
}

// MATRICES: 1, 2 or 4; `row` is this lane's, of those that lanes below 8 * MATRICES name.
template <int MATRICES, bool TRANSPOSED = false>
__device__ __forceinline__ void load_matrices(uint32_t (&out)[MATRICES], const void* row) {
#ifdef __CUDACC__
  const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(row));
  if constexpr (MATRICES == 4 && !TRANSPOSED)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(at) : "memory");
  else if constexpr (MATRICES == 4)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(at) : "memory");
  else if constexpr (MATRICES == 2 && !TRANSPOSED)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];\n"
                 : "=r"(out[0]), "=r"(out[1]) : "r"(at) : "memory");
  else if constexpr (MATRICES == 2)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];\n"
                 : "=r"(out[0]), "=r"(out[1]) : "r"(at) : "memory");
  else if constexpr (!TRANSPOSED)
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];\n" : "=r"(out[0]) : "r"(at) : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];\n" : "=r"(out[0]) : "r"(at) : "memory");
#else
  emulated::load_matrices(out, MATRICES, TRANSPOSED, row);
#endif
}

}  // namespace aminet
