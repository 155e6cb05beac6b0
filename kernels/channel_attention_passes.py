"""channel_attention's passes: how the work is cut, and the launches of the kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._common import all_registers, all_registers_before_3_7, cdiv, dot_precision, next_power_of_2, refuse_float64
from .channel_attention_project import project_kernel
from .channel_attention_small import dsoftmax_kernel, softmax_kernel
from .channel_attention_sums import gram_kernel, outer_kernel

BW = 16  # pixels across a strip: a dot product's shortest, so that a thread's weights and sums stay in registers


def width(channels: int, most: int) -> int:
    """A tile's width for so many channels."""
    return min(max(16, next_power_of_2(channels)), most)


class Passes:
    """Everything is cut by the shape alone, so that results do not vary from run to run.

    Data are rows [N * H * W, channels], of which the last dimension is dense; dw_weight is [3C, 9].
    """

    def __init__(
        self, x: Tensor, dw_weight: Tensor, temperature: Tensor | None, proj_weight: Tensor, heads: int
    ) -> None:
        refuse_float64("channel_attention", x)
        self.n, self.c, self.h, self.w = x.shape
        self.heads, self.d = heads, self.c // heads
        self.pixels = self.h * self.w
        self.rows = 16 if self.h > 16 else 8  # of a strip
        self.strips = cdiv(self.w, BW) * cdiv(self.h, self.rows)  # of an image
        self.dw_weight = dw_weight.contiguous().view(3 * self.c, 9)
        self.temperature, self.projection = temperature, proj_weight.contiguous()
        self.dtype = x.dtype
        self.precision = dot_precision()
        self.small: dict[str, Any] = {
            "C": self.c,
            "D": self.d,
            "HEADS": heads,
            "scale": self.pixels**-0.5,
            "NORMALISED": temperature is not None,
            "BI": width(self.d, 16),
            "BJ": width(self.d, 1 << 20),
            "BO": 32,
        }

    def gram(self, u: Tensor) -> Tensor:
        """[N, splits, C * D + 2C]: q k^T, the squared norms of q's channels and of k's; a part for each split."""
        bd = width(self.d, 32)
        blocks = self.heads * cdiv(self.d, bd) ** 2
        splits = min(self.strips, cdiv(1024, self.n * blocks))
        parts = u.new_empty((self.n, splits, self.c * (self.d + 2)), dtype=torch.float32)
        gram_kernel[(self.n * splits, blocks)](
            u, self.dw_weight, parts, self.h, self.w, splits, self.c, self.d,
            ROWS=self.rows, BW=BW, BD=bd, PRECISION=self.precision,
        )  # fmt: skip
        return parts

    def fuse(self, parts: Tensor, gram: Tensor, attn: Tensor, store: bool) -> tuple[Tensor, Tensor]:
        """M^T of every image, [N, C in, C out], from gram's parts, and dw_weight as taps [9, 3C], both for project.

        store: gram, which is the parts' sum, and attn, too.
        """
        fused = gram.new_empty((self.n, self.c, self.c), dtype=self.dtype)
        taps = self.dw_weight.new_empty((9, 3 * self.c))
        grid = (self.n * self.heads, cdiv(self.c, self.small["BO"]))
        softmax_kernel[grid](
            parts, self.temperature, self.projection, self.dw_weight, gram, attn, fused, taps, parts.shape[1],
            **self.small, STORE=store, AT_ONCE=self._at_once(parts, self.small["BI"]),
        )  # fmt: skip
        return fused, taps

    def _at_once(self, parts: Tensor, rows: int) -> int:
        """Of parts [N, splits, ...], so many that a tile of `rows` of each is 4096 numbers, if there are."""
        return max(1, min(next_power_of_2(parts.shape[1]), 4096 // (rows * self.small["BJ"])))

    def dsoftmax(self, dfused: Tensor, gram: Tensor, attn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """mix [N, heads, 2, D, 2, D], [dq | dk] = [q | k] mix; the gradients of projection and temperature by image.

        dfused: parts [N, splits, C, C], as outer() gives them.
        """
        mix = gram.new_empty((self.n, self.heads, 2, self.d, 2, self.d), dtype=self.dtype)
        dprojection = gram.new_empty((self.n, self.c, self.c))
        dtemperature = gram.new_empty((self.n, self.heads) if self.temperature is not None else (0,))
        # In float32 wide heads spill what they would load ahead.
        stages = max(1, 3 - self.small["BJ"] // 64) if self.dtype == torch.float32 else 3
        dsoftmax_kernel[(self.n * self.heads,)](
            dfused, self.projection, gram, attn, self.temperature, mix, dprojection, dtemperature,
            dfused.shape[1], **self.small, AT_ONCE=self._at_once(dfused, self.small["BO"]), num_stages=stages,
        )  # fmt: skip
        return mix, dprojection, dtemperature

    def outer(self, a: Tensor, weight: Tensor, b: Tensor, centre: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Parts of conv(a)^T b of every image, [N, splits, K, C]. With `centre`, of which a is the 3x3's gradient: the
        3x3's transpose for conv, all images together, [splits, K, C]; and of the taps' gradient, [splits, K, 9].

        weight: the 3x3's, [K, 9].
        """
        all_images = centre is not None
        k, m = weight.shape[0], self.c
        # float32 is multiplied in plain registers: fewer sums, less loaded ahead; and ptxas spills some to fit a third
        # block, unless told that it may have all registers.
        plain = self.dtype == torch.float32
        bk, bm = width(k, 32), width(m, 128 if plain else 256)
        blocks = cdiv(k, bk) * cdiv(m, bm)
        groups, images = (1, self.n) if all_images else (self.n, 1)
        splits = min(self.strips * images, cdiv(512, groups * blocks))
        out = a.new_empty((groups, splits, k, m), dtype=torch.float32)
        dtaps = a.new_empty((splits, k, 9) if all_images else (0, k, 9), dtype=torch.float32)
        outer_kernel[(groups * splits, blocks)](
            a, weight, b, centre, out, dtaps, self.h, self.w, images, splits, k, m, a.stride(0),
            FLIPPED=all_images, TAPS=all_images, ROWS=self.rows, BW=BW, BK=bk, BM=bm, PRECISION=self.precision,
            num_stages=2 if plain else 3, **(all_registers() if plain and bm == 128 else {}),
        )  # fmt: skip
        return out[0] if all_images else out, dtaps

    def project(self, a: Tensor, taps: Tensor | None, matrix: Tensor, strides: tuple[int, int], out: Tensor) -> None:
        """out = conv(a) matrix, without taps a matrix; strides of the matrix: from input to input, output to output.

        matrix: one for all images [in, out]; one an image, 3-dimensional; or mix, for q and k of each head.
        """
        of_head = matrix.dim() == 6
        halves, groups = (2, self.heads) if of_head else (1, 1)
        k, m = (self.d, self.d) if of_head else (a.shape[1], out.shape[1])
        wide = width(m, 256 // halves)
        # float32 is multiplied in plain registers, which wide tiles spill; so do more of them loaded ahead.
        widest, stages = (128, 3) if self.dtype != torch.float32 else (32, 2 if wide * halves <= 64 else 1)
        tile = 64 if self.n * self.pixels >= 1 << 14 and wide * halves <= widest else 32
        project_kernel[(self.n * cdiv(self.pixels, tile), groups * cdiv(m, wide))](
            a, taps, matrix, out, self.h, self.w, k, m, self.c, a.stride(0), out.stride(0), 3 * self.c,
            matrix.stride(0) if matrix.dim() > 2 else 0, matrix.stride(1) if of_head else 0, *strides,
            HALVES=halves, CONV=taps is not None, FLIPPED=matrix.dim() == 2, BP=tile, BK=width(k, 32),
            BM=wide * halves, PRECISION=self.precision, num_stages=stages,
            **(all_registers_before_3_7() if self.dtype == torch.float32 and wide * halves <= 64 else {}),
        )  # fmt: skip
