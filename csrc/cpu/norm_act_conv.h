// Between the torch side (norm_act_conv.cpp) and the loops (kernels/norm_act_conv*), which know nothing of tensors.
//
// y = conv3x3(pad(act(x * scale + shift))). Images and the weight have their channels innermost everywhere. "Acc" is
// float, or double where the data is double.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/capability.h"
#include "cpu/scalar.h"

namespace aminet {

// How the convolution is made: by torch on a padded map; in tiles of 2x2 outputs with fewer products (Winograd's
// F(2x2, 3x3), or the like for an input that nearest x2 has made); output by output for stride 2.
enum class Tiling { none, winograd, doubled, strided };

// Along one axis: where the padded map's places come from (-1: zero), and which places an index goes to.
struct PadAxis {
  std::vector<int64_t> source;       // [padded size]
  std::vector<int64_t> start, place;  // places of index i: place[start[i] .. start[i + 1])
  int64_t size() const { return static_cast<int64_t>(source.size()); }
};

struct NormActConvShape {
  int64_t images, channels, height, width;  // of x
  int64_t outputs, out_height, out_width;   // of y
  Tiling tiling;

  int64_t parts() const { return tiling == Tiling::winograd ? 4 : 3; }  // of a tile's input, along an axis
  int64_t step() const { return tiling == Tiling::doubled ? 1 : 2; }    // from a tile's input to the next one's
  int64_t tile_size() const { return tiling == Tiling::strided ? 1 : 2; }
  int64_t tile_rows() const { return (out_height + tile_size() - 1) / tile_size(); }
  int64_t tile_columns() const { return (out_width + tile_size() - 1) / tile_size(); }
  int64_t strip_columns() const { return (tile_columns() - 1) * step() + parts(); }
};

// Rows of y that one unit of the forward makes, and whose moments are one partial sum.
struct RowUnits {
  int64_t rows, per_image;
};

struct NormAct {
  NormActConvShape shape;
  const PadAxis *rows, *columns;
  const void* x;      // data, from the chunk's first image on
  const void* scale;  // Acc [channels]
  const void* shift;  // Acc [channels]
  double slope;
};

struct PadPass {
  NormAct in;
  void* padded;  // data [image][rows][columns][channels]
};

struct FoldPass {
  NormAct in;
  const void* dpadded;  // data, as padded
  int64_t unit_rows, units_per_image;
  void* dx;       // data, from the chunk's first image on
  void* partial;  // Acc [unit of the chunk][2][channels]: sums for scale and shift
};

struct TileForward {
  NormAct in;
  const void* weight;  // Acc [parts * parts][channels][outputs rounded up to kTilePadding]
  RowUnits units;
  void* y;        // data
  void* partial;  // Acc [unit][3][outputs]: pivot, sum and sum of squares of y - pivot; or null
};

struct MomentPass {
  int64_t images, outputs, height, width;
  RowUnits units;
  const void* from;  // data, from the chunk's first image on
  void* to;          // data; may be null: nothing is copied
  void* partial;     // Acc [unit of the chunk][3][outputs]; or null
};

// The gradient of y with what comes through its moments: dy + dmean + dvar * (y - mean), the last two already divided.
struct OutputGradient {
  const void* dy;     // data
  const void* y;      // data, or null: no moments
  const void* mean;   // Acc [outputs]
  const void* dmean;  // Acc [outputs]
  const void* dvar;   // Acc [outputs]
};

struct GradientPass {
  OutputGradient out;
  int64_t outputs;
  void* to;  // data [pixel][outputs]
};

// A range of tile rows, counted through the images of the chunk; more than one image only if all are whole.
struct TileBackward {
  NormAct in;
  OutputGradient out;
  const void* weight;  // Acc [parts * parts][outputs][channels rounded up]
  int64_t first_row, last_row;
  void* inputs;     // Acc [parts * parts][tiles of the range][channels rounded up]; then its gradient
  void* gradients;  // Acc [parts * parts][tiles of the range][outputs rounded up]
  void* dweight;    // Acc, as weight, added to; or null
  void* dpadded;    // data [image of the chunk][rows][columns][channels], added to; or null
};

struct TileWeights {
  NormActConvShape shape;
  const void* weight;   // Acc [outputs][3][3][channels]
  const void* dweight;  // Acc [parts * parts][outputs][channels rounded up]
  void* to;             // Acc: as TileForward, as TileBackward, or as weight
};

// Elements that rows of channels are rounded up to.
constexpr int64_t kTilePadding = 16;
inline int64_t tile_padded(int64_t channels) { return (channels + kTilePadding - 1) / kTilePadding * kTilePadding; }
// Products are cut into blocks of so many tiles, and the weight's gradient into blocks of so many outputs.
constexpr int64_t kTileBlock = 96, kWeightBlock = 48;

// Ranges are rows of the padded map (pad), row units (fold, forward, moments), pixels (gradient), rows of inputs or
// outputs (weights), and for the backward in tiles: tile rows, pairs of part and block (dweight, dinputs), channels'
// rows of the padded map in bands (see kernels/norm_act_conv_tiles.cpp).
struct NormActConvKernels {
  void (*pad)(Scalar, const PadPass&, int64_t first, int64_t last);
  void (*fold)(Scalar, const FoldPass&, int64_t first, int64_t last);
  void (*moments)(Scalar, const MomentPass&, int64_t first, int64_t last);
  void (*gradient)(Scalar, const GradientPass&, int64_t first, int64_t last);
};

struct NormActTileKernels {
  void (*forward_weights)(Scalar, const TileWeights&, int64_t first_input, int64_t last_input);
  void (*backward_weights)(Scalar, const TileWeights&, int64_t first_output, int64_t last_output);
  void (*weight_gradient)(Scalar, const TileWeights&, int64_t first_output, int64_t last_output);
  void (*forward)(Scalar, const TileForward&, int64_t first_unit, int64_t last_unit);
  void (*transform)(Scalar, const TileBackward&, int64_t first_row, int64_t last_row);
  void (*dweight)(Scalar, const TileBackward&, int64_t first, int64_t last);
  void (*dinputs)(Scalar, const TileBackward&, int64_t first, int64_t last);
  void (*dpadded)(Scalar, const TileBackward&, int64_t first_band, int64_t last_band);
};

#define AMINET_DECLARE(capability)                        \
  namespace capability {                                  \
  extern const NormActConvKernels norm_act_conv;          \
  extern const NormActTileKernels norm_act_conv_tiles;    \
  }
AMINET_FOR_EACH_CAPABILITY(AMINET_DECLARE)
#undef AMINET_DECLARE

}  // namespace aminet
