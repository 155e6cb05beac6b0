// The ways of making a tile of outputs of a 3x3 convolution from products of parts, along one axis; two are nested.
//   y = out(in(d) * weight(w)), products part by part; *_adjoint are the transposed linear maps.
#pragma once

namespace aminet {
namespace AMINET_CAPABILITY {
namespace {

// Winograd's F(2, 3): four products for two outputs y0 = d0 w0 + d1 w1 + d2 w2, y1 = d1 w0 + d2 w1 + d3 w2.
struct Winograd {
  static constexpr int kParts = 4, kStep = 2, kSize = 2;
  template <typename V>
  static void in(const V* d, V* m) {
    m[0] = d[0] - d[2];
    m[1] = d[1] + d[2];
    m[2] = d[2] - d[1];
    m[3] = d[1] - d[3];
  }
  template <typename V>
  static void in_adjoint(const V* m, V* d) {
    d[0] = m[0];
    d[1] = m[1] - m[2] + m[3];
    d[2] = m[1] + m[2] - m[0];
    d[3] = -m[3];
  }
  template <typename V>
  static void out(const V* m, V* y) {
    y[0] = m[0] + m[1] + m[2];
    y[1] = m[1] - m[2] - m[3];
  }
  template <typename V>
  static void out_adjoint(const V* y, V* m) {
    m[0] = y[0];
    m[1] = y[0] + y[1];
    m[2] = y[0] - y[1];
    m[3] = -y[1];
  }
  template <typename V, typename T>
  static void weight(const V* w, V* m, T half) {
    m[0] = w[0];
    m[1] = (w[0] + w[1] + w[2]) * half;
    m[2] = (w[0] - w[1] + w[2]) * half;
    m[3] = w[2];
  }
  template <typename V, typename T>
  static void weight_adjoint(const V* m, V* w, T half) {
    w[0] = m[0] + (m[1] + m[2]) * half;
    w[1] = (m[1] - m[2]) * half;
    w[2] = m[3] + (m[1] + m[2]) * half;
  }
};

// After nearest x2 the two outputs over d1 see d0 d1 d1 and d1 d1 d2: three products, a quarter of them all in 2D.
//   y0 = (d0 - d1) w0 + d1 (w0 + w1 + w2),  y1 = d1 (w0 + w1 + w2) + (d2 - d1) w2
struct Doubled {
  static constexpr int kParts = 3, kStep = 1, kSize = 2;
  template <typename V>
  static void in(const V* d, V* m) {
    m[0] = d[0] - d[1];
    m[1] = d[1];
    m[2] = d[2] - d[1];
  }
  template <typename V>
  static void in_adjoint(const V* m, V* d) {
    d[0] = m[0];
    d[1] = m[1] - m[0] - m[2];
    d[2] = m[2];
  }
  template <typename V>
  static void out(const V* m, V* y) {
    y[0] = m[0] + m[1];
    y[1] = m[1] + m[2];
  }
  template <typename V>
  static void out_adjoint(const V* y, V* m) {
    m[0] = y[0];
    m[1] = y[0] + y[1];
    m[2] = y[1];
  }
  template <typename V, typename T>
  static void weight(const V* w, V* m, T) {
    m[0] = w[0];
    m[1] = w[0] + w[1] + w[2];
    m[2] = w[2];
  }
  template <typename V, typename T>
  static void weight_adjoint(const V* m, V* w, T) {
    w[0] = m[0] + m[1];
    w[1] = m[1];
    w[2] = m[1] + m[2];
  }
};

// Stride 2 as it stands: y0 = d0 w0 + d1 w1 + d2 w2.
struct Strided {
  static constexpr int kParts = 3, kStep = 2, kSize = 1;
  template <typename V>
  static void in(const V* d, V* m) {
    for (int i = 0; i < 3; ++i) m[i] = d[i];
  }
  template <typename V>
  static void in_adjoint(const V* m, V* d) {
    in(m, d);
  }
  template <typename V>
  static void out(const V* m, V* y) {
    y[0] = m[0] + m[1] + m[2];
  }
  template <typename V>
  static void out_adjoint(const V* y, V* m) {
    m[0] = m[1] = m[2] = y[0];
  }
  template <typename V, typename T>
  static void weight(const V* w, V* m, T) {
    in(w, m);
  }
  template <typename V, typename T>
  static void weight_adjoint(const V* m, V* w, T) {
    in(m, w);
  }
};

}  // namespace
}  // namespace AMINET_CAPABILITY
}  // namespace aminet
