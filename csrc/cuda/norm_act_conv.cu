// y = conv3x3(pad(leaky_relu(x * scale + shift))), the moments of its channels, and their gradients:
// aminet_fast_cuda::norm_act_conv_fwd and _bwd. Schemas and what is refused are in aminet_fast/ops/norm_act_conv.py.
//
// Forward reads x and writes y: every value is activated once, in shared memory, and read from there at all taps. Backward
// makes the gradient before the moments there too: one kernel for dx, dscale and dshift, which keeps that gradient for the
// one of the weight (3 y + 2 x and y + x images moved, of y's and x's size), and one that adds up what both left in parts.
// After nearest x2 a kernel before them sums it over 2x2. docs/kernels/norm_act_conv.md draws the tiles, and says why the
// gradients are two kernels.
//
// Floors on an H100 at 3.0 TB/s and 600 TFLOP/s of mma.sync, batch 32, bf16; backward: 4 y + 3 x, after nearest x2 5 y + 3 x
//
//     layer (FRM at c@side)      24@128               48@64                96@32                192@16
//     c->c, zeros           fwd   50 MB  5.4 GF  17us   25 MB  5.4 GF   9us   13 MB  5.4 GF   9us    6 MB  5.4 GF   9us
//                           bwd  176 MB 10.9 GF  59us   88 MB 10.9 GF  29us   44 MB 10.9 GF  18us   22 MB 10.9 GF  18us
//     c->64                 fwd   92 MB 14.5 GF  31us   29 MB  7.2 GF  12us   10 MB  3.6 GF   6us    4 MB  1.8 GF   3us
//                           bwd  344 MB 29.0 GF 115us  105 MB 14.5 GF  35us   36 MB  7.2 GF  12us   14 MB  3.6 GF   6us
//     c->64, stride 2       fwd   42 MB  3.6 GF  14us   17 MB  1.8 GF   6us    7 MB  0.9 GF   2us    3 MB  0.5 GF   1us
//                           bwd  143 MB  7.2 GF  48us   55 MB  3.6 GF  18us   23 MB  1.8 GF   8us   10 MB  0.9 GF   3us
//     64->64 at side / 2    fwd   34 MB  9.7 GF  16us    8 MB  2.4 GF   4us    2 MB  0.6 GF   1us    1 MB  0.2 GF   0us
//                           bwd  117 MB 19.3 GF  39us   29 MB  4.8 GF  10us    7 MB  1.2 GF   2us    2 MB  0.3 GF   1us
//     64->64, nearest x2    fwd   84 MB 17.2 GF  29us   21 MB  4.3 GF   7us    5 MB  1.1 GF   2us    1 MB  0.3 GF   0us
//                           bwd  386 MB 19.3 GF 129us   96 MB  4.8 GF  32us   24 MB  1.2 GF   8us    6 MB  0.3 GF   2us
#include "cuda/norm_act_conv_backward.h"

namespace aminet {
namespace {

using namespace nac;

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& input, const Tensor& scale, const Tensor& shift,
                                           const Tensor& weight, double slope, int64_t stride, bool reflect,
                                           bool upsample, bool moments, const std::optional<Tensor>& packed, bool tf32) {
  const OnDeviceOf device(input);
  const Call call(input, scale, shift, weight, slope, stride, reflect, upsample);
  const Geometry& g = call.ahead;
  Tensor y = empty_image(call.x, g.images, call.outputs, g.rows.to, g.columns.to);
  const int64_t kept = moments ? call.outputs : 0;
  Tensor mean = floats(call.x, kept), var = floats(call.x, kept);
  const Packed weights = call.weights(weight, packed, false, device.stream);
  by_product(call.x, tf32, [&](auto product) {
    using P = typename decltype(product)::type;
    using T = Data<P>;
    by_shape<P, false>(g, call.inputs, call.outputs, shared_bytes(), [&](auto choice, const Cut& cut) {
      using S = typename decltype(choice)::S;
      const int64_t parts = tiles_of(g, S::height, S::width) * g.rows.phases * g.columns.phases;
      Tensor partial = floats(call.x, moments ? (2 * kept + 1) * parts : 0);
      const Convolved<T> finish = {room_of<T>(y), moments ? room_of<float>(partial) : nullptr, call.outputs, parts};
      run_windows<P, decltype(choice)>(call.activation<T>(), weights, finish, g, cut, device.stream);
      if (moments)
        AMINET_LAUNCH(moments_kernel, static_cast<unsigned>(call.outputs), 256, 0, device.stream, data_of<float>(partial),
                      room_of<float>(mean), room_of<float>(var), parts,
                      static_cast<float>(g.images * g.rows.to * g.columns.to));
    });
  });
  return {y, mean, var};
}

}  // namespace
}  // namespace aminet

AMINET_CUDA_LIBRARY(m) {
  m.impl("norm_act_conv_fwd", TORCH_BOX(&aminet::forward));
  m.impl("norm_act_conv_bwd", TORCH_BOX(&aminet::nac::backward));
}
