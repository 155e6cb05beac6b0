"""q, k, v = dw3x3(x W^T);  y = v M^T;  M = projection * blockdiag(softmax(temperature * q k^T / (|q| |k|))) an image.

Forward, with T the bytes of x: u = x W^T by cuBLAS (reads T, writes 3T); q k^T and the norms (2T); softmax and M^T in
one kernel on the small matrices; y = v M^T (2T). The 3x3 is applied wherever a tile of u is loaded: 8T in all, where
writing its output would make 14T. Nor is anything computed twice by that: every tile of q, k and v is wanted once.

Backward: dM^T = v dy^T (2T); softmax, norms and projection in one kernel on the small matrices, which makes one matrix
a head, [dq | dk] = [q | k] mix (4T), for the scale of q that the norm's gradient is goes on mix's diagonal; dv = dy M
(2T); these, d, are written once, and the transposed 3x3 is applied to them on load, twice: dx (4T), and together the
sums for both convolutions' weights, du^T x and d times u's neighbours (7T). 19T; with du written it would be 28T.
u is kept by the forward, 3T of data; to make it again is 4T more.

Sums over pixels are cut into a number of parts that the shape alone decides, added in their order where they are used,
those of the parameters' gradients by _totals.py: no atomics. That is 4 launches forward and 8 backward, and one more
where qkv_weight is converted for cuBLAS. Heads are 24 wide in the network and tiles 32: a quarter of the lanes and of
tl.dot idles, but no bytes move for it.

At batch 32 in bfloat16, floors on an H100 (3.0 TB/s, 800 TFLOP/s), forward | backward:

| c@side | T in MB | MB moved  | GFLOP      | floor in us |
|--------|---------|-----------|------------|-------------|
| 24@128 | 25.2    | 201 | 478 | 3.7 | 10.0 | 67 | 159    |
| 48@64  | 12.6    | 101 | 239 | 3.1 | 7.4  | 34 | 80     |
| 96@32  | 6.3     | 50 | 120  | 2.7 | 6.1  | 17 | 40     |
| 192@16 | 3.1     | 25 | 60   | 2.6 | 5.5  | 8 | 20      |

Data are rounded to x's dtype four times on the way: u, q/k/v for tl.dot, M, and y; all sums are float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._common import on_device_of
from ._totals import Total, add_up
from .channel_attention_passes import Passes


def channel_attention_fwd(
    x: Tensor,
    qkv_weight: Tensor,
    dw_weight: Tensor,
    temperature: Tensor | None,
    proj_weight: Tensor,
    heads: int,
    keep: bool,
    packed: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, gram, attn, kept: as the schema in ops/channel_attention.py says."""
    n, c, h, w = x.shape
    with on_device_of(x):
        passes = Passes(x, dw_weight, temperature, proj_weight, heads)
        u = _linear(x, packed if packed is not None and packed.dtype == x.dtype else qkv_weight)
        parts = passes.gram(u)
        gram, attn = parts.new_empty((n, parts.shape[2])), parts.new_empty((n, c, c // heads))
        fused, taps = passes.fuse(parts, gram, attn, store=True)  # M^T
        y = _Image(x)
        passes.project(u[:, 2 * c :], taps[:, 2 * c :], fused, (c, 1), y.rows)
        kept = u.view(n, h, w, 3 * c).permute(0, 3, 1, 2) if keep else x.new_empty((0,))
        return y.finished(), gram, attn, kept


def channel_attention_bwd(
    dy: Tensor,
    x: Tensor,
    qkv_weight: Tensor,
    dw_weight: Tensor,
    temperature: Tensor | None,
    proj_weight: Tensor,
    gram: Tensor,
    attn: Tensor,
    kept: Tensor,
    heads: int,
    need_x: bool,
    need_qkv: bool,
    need_dw: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, qkv_weight, dw_weight, temperature and proj_weight; those not needed have no elements."""
    c = x.shape[1]
    with on_device_of(x):
        passes = Passes(x, dw_weight, temperature, proj_weight, heads)
        u = _rows(kept) if kept.numel() > 0 else _linear(x, qkv_weight)
        given = _rows(dy.to(x.dtype))
        dfused, _ = passes.outer(u[:, 2 * c :], passes.dw_weight[2 * c :], given)
        mix, of_projection, of_temperature = passes.dsoftmax(dfused, gram, attn)
        dprojection = proj_weight.new_empty(proj_weight.shape)
        dx, dqkv, ddw, dtemperature = (t.new_empty((0,)) for t in (x, qkv_weight, dw_weight, gram))
        by_image, by_split = [Total(of_projection, dprojection)], []
        if temperature is not None:
            dtemperature = temperature.new_empty(temperature.shape)
            by_image.append(Total(of_temperature, dtemperature))
        if need_x or need_qkv or need_dw:
            fused, taps = passes.fuse(gram[:, None], gram, attn, store=False)
            d = torch.empty_like(u)  # of q, k and v, after the 3x3
            passes.project(u, taps, mix, (2 * c // heads, 1), d)
            passes.project(given, None, fused, (1, c), d[:, 2 * c :])
        if need_x:
            to = _Image(x)
            passes.project(d, taps, qkv_weight.reshape(3 * c, c), (c, 1), to.rows)
            dx = to.finished()
        if need_qkv or need_dw:
            products, of_taps = passes.outer(d, passes.dw_weight, _rows(x), centre=u)
            if need_qkv:
                dqkv = qkv_weight.new_empty(qkv_weight.shape)
                by_split.append(Total(products, dqkv))
            if need_dw:
                ddw = dw_weight.new_empty(dw_weight.shape)
                by_split.append(Total(of_taps, ddw))
        add_up(by_image, by_split)
        return dx, dqkv, ddw, dtemperature, dprojection


def _linear(x: Tensor, qkv_weight: Tensor) -> Tensor:
    """The 1x1 convolution: rows [N * H * W, 3C]."""
    return _rows(x) @ qkv_weight.flatten(1).to(x.dtype).t()


def _rows(x: Tensor) -> Tensor:
    """[N * H * W, C]; a view where x is channels_last."""
    return x.permute(0, 2, 3, 1).contiguous().view(-1, x.shape[1])


class _Image:
    """An output beside x, in the layout that operators give it: rows [N * H * W, C] to write, then the image."""

    def __init__(self, x: Tensor) -> None:
        layout = torch.channels_last if x.stride(1) == 1 else torch.contiguous_format
        self.image = torch.empty_like(x.contiguous(memory_format=layout))
        pixels = self.image.permute(0, 2, 3, 1)
        self.same = pixels.is_contiguous()
        self.pixels = pixels if self.same else torch.empty_like(pixels, memory_format=torch.contiguous_format)
        self.rows = self.pixels.view(-1, x.shape[1])

    def finished(self) -> Tensor:
        return self.image if self.same else self.image.copy_(self.pixels.permute(0, 3, 1, 2))
