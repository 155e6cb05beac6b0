// layer_norm2d's loops over channels_last data: one pixel's channels are neighbours, so vectors run along the channels.
// A pixel's row of C values is read as whole vectors, the last of which may overlap the one before it: 24 channels are
// 0..15 and 8..23 with sixteen lanes. Lanes met twice are left out of the sums; written twice, they get the same value.
#pragma once

#include <cstdint>

#include "vectors.h"

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

template <typename T, typename Acc>
class LayerNormRows {
 public:
  LayerNormRows(int64_t channels, const void* weight, const void* bias, double eps)
      : C(channels), w(static_cast<const Acc*>(weight)), b(static_cast<const Acc*>(bias)), eps(static_cast<Acc>(eps)), once(met_once<Acc>(channels)) {}

  void forward(const T* x, T* y, Acc* mean, Acc* rstd, int64_t count) const {
    if (C < kLanes<Acc>) return few_forward(x, y, mean, rstd, count);
    for (int64_t p = 0; p < count; ++p, x += C, y += C) {
      Vector<Acc> sum = load_as<T, Acc>(x + C - kLanes<Acc>) * once;
      for (int64_t c = 0; c < C - kLanes<Acc>; c += kLanes<Acc>) sum += load_as<T, Acc>(x + c);
      const Acc m = halved_sum<Acc>(sum) / static_cast<Acc>(C);
      Vector<Acc> squares = load_as<T, Acc>(x + C - kLanes<Acc>) - m;
      squares *= squares * once;
      for (int64_t c = 0; c < C - kLanes<Acc>; c += kLanes<Acc>) {
        const Vector<Acc> d = load_as<T, Acc>(x + c) - m;
        squares += d * d;
      }
      const Acc r = 1 / std::sqrt(halved_sum<Acc>(squares) / static_cast<Acc>(C) + eps);
      for_vectors([&](int64_t c) {
        store_as<T, Acc>(y + c, (load_as<T, Acc>(x + c) - m) * (load(w + c) * r) + load(b + c));
      });
      mean[p] = m;
      rstd[p] = r;
    }
  }

  // Adds to dw and db.
  void backward(const T* dy, const T* x, const Acc* mean, const Acc* rstd, T* dx, Acc* dw, Acc* db,
                int64_t count) const {
    if (C < kLanes<Acc>) return few_backward(dy, x, mean, rstd, dx, dw, db, count);
    if (C <= 2 * kLanes<Acc>) return two_backward(dy, x, mean, rstd, dx, dw, db, count);
    for (int64_t p = 0; p < count; ++p, dy += C, x += C, dx += C) {
      const Acc m = mean[p], r = rstd[p];
      Vector<Acc> sum = {}, dot = {};
      const auto add = [&](int64_t c, const Vector<Acc>& counted) {
        const Vector<Acc> d = load_as<T, Acc>(dy + c) * counted, xhat = (load_as<T, Acc>(x + c) - m) * r;
        const Vector<Acc> g = d * load(w + c);
        sum += g;
        dot += g * xhat;
        store(dw + c, load(dw + c) + d * xhat);
        store(db + c, load(db + c) + d);
      };
      for (int64_t c = 0; c < C - kLanes<Acc>; c += kLanes<Acc>) add(c, Vector<Acc>{} + 1);
      add(C - kLanes<Acc>, once);
      const Acc mean_g = halved_sum<Acc>(sum) / static_cast<Acc>(C), mean_dot = halved_sum<Acc>(dot) / static_cast<Acc>(C);
      for_vectors([&](int64_t c) { store_dx(dy, x, dx, c, m, r, mean_g, mean_dot); });
    }
  }

 private:
  template <typename Run>
  void for_vectors(const Run& run) const {
    for (int64_t c = 0; c < C - kLanes<Acc>; c += kLanes<Acc>) run(c);
    run(C - kLanes<Acc>);
  }

  void store_dx(const T* dy, const T* x, T* dx, int64_t c, Acc m, Acc r, Acc mean_g, Acc mean_dot) const {
    const Vector<Acc> xhat = (load_as<T, Acc>(x + c) - m) * r;
    store_as<T, Acc>(dx + c, (load_as<T, Acc>(dy + c) * load(w + c) - mean_g - xhat * mean_dot) * r);
  }

  // At most two vectors a pixel: the parameters' sums stay in registers.
  void two_backward(const T* dy, const T* x, const Acc* mean, const Acc* rstd, T* dx, Acc* dw, Acc* db,
                    int64_t count) const {
    const int64_t at[2] = {0, C - kLanes<Acc>};
    // With one vector a pixel the first of the two is that vector again, and counts for nothing.
    const Vector<Acc> counted[2] = {Vector<Acc>{} + (C > kLanes<Acc> ? Acc(1) : Acc(0)), once};
    const Vector<Acc> weight[2] = {load(w + at[0]), load(w + at[1])};
    Vector<Acc> sum_w[2] = {}, sum_b[2] = {};
    for (int64_t p = 0; p < count; ++p, dy += C, x += C, dx += C) {
      const Acc m = mean[p], r = rstd[p];
      Vector<Acc> sum = {}, dot = {};
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        const Vector<Acc> d = load_as<T, Acc>(dy + at[i]) * counted[i], xhat = (load_as<T, Acc>(x + at[i]) - m) * r;
        const Vector<Acc> g = d * weight[i];
        sum += g;
        dot += g * xhat;
        sum_w[i] += d * xhat;
        sum_b[i] += d;
      }
      const Acc mean_g = halved_sum<Acc>(sum) / static_cast<Acc>(C), mean_dot = halved_sum<Acc>(dot) / static_cast<Acc>(C);
      for (const int64_t c : at) store_dx(dy, x, dx, c, m, r, mean_g, mean_dot);
    }
    for (int i = 0; i < 2; ++i) {
      store(dw + at[i], load(dw + at[i]) + sum_w[i]);
      store(db + at[i], load(db + at[i]) + sum_b[i]);
    }
  }

  void few_forward(const T* x, T* y, Acc* mean, Acc* rstd, int64_t count) const {
    for (int64_t p = 0; p < count; ++p, x += C, y += C) {
      Acc sum = 0, squares = 0;
      for (int64_t c = 0; c < C; ++c) sum += static_cast<Acc>(x[c]);
      const Acc m = sum / static_cast<Acc>(C);
      for (int64_t c = 0; c < C; ++c) squares += (static_cast<Acc>(x[c]) - m) * (static_cast<Acc>(x[c]) - m);
      const Acc r = 1 / std::sqrt(squares / static_cast<Acc>(C) + eps);
      for (int64_t c = 0; c < C; ++c) y[c] = narrowed<T>((static_cast<Acc>(x[c]) - m) * (w[c] * r) + b[c]);
      mean[p] = m;
      rstd[p] = r;
    }
  }

  void few_backward(const T* dy, const T* x, const Acc* mean, const Acc* rstd, T* dx, Acc* dw, Acc* db,
                    int64_t count) const {
    for (int64_t p = 0; p < count; ++p, dy += C, x += C, dx += C) {
      const Acc m = mean[p], r = rstd[p];
      Acc sum = 0, dot = 0;
      for (int64_t c = 0; c < C; ++c) {
        const Acc d = static_cast<Acc>(dy[c]), xhat = (static_cast<Acc>(x[c]) - m) * r, g = d * w[c];
        sum += g;
        dot += g * xhat;
        dw[c] += d * xhat;
        db[c] += d;
      }
      sum /= static_cast<Acc>(C);
      dot /= static_cast<Acc>(C);
      for (int64_t c = 0; c < C; ++c) {
        const Acc xhat = (static_cast<Acc>(x[c]) - m) * r;
        dx[c] = narrowed<T>(r * (static_cast<Acc>(dy[c]) * w[c] - sum - xhat * dot));
      }
    }
  }

  const int64_t C;
  const Acc *w, *b;
  const Acc eps;
  const Vector<Acc> once;
};

}  // namespace
}  // namespace AMINET_CAPABILITY
}  // namespace aminet
