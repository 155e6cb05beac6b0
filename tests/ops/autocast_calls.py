"""Every operator with drawn arguments, its images apart from its parameters; for the tests of autocast's rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aminet_fast import ops

N, C, H, W, M = 2, 16, 20, 24, 8  # M: the hourglass's channels
IMAGE, MAPS, HEADS = (N, C, H, W), (N, M, H, W), 2
VECTOR = (C,)
DEPTHWISE = [(C, 1, 3, 3), (C, 1, 5, 5), VECTOR, VECTOR]
FRONT = [*DEPTHWISE, (4, 2 * C, 1, 1), (4,), (C, 4, 1, 1), VECTOR, *DEPTHWISE, (C, 2 * C, 1, 1), VECTOR]
GATES = [VECTOR, VECTOR, (M,), (M,), (M,), (M,), (1, M, 3, 3), (1,)]


@contextmanager
def kept_for_backward() -> Iterator[list[Tensor]]:
    """What autograd saves inside."""
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        yield kept


@dataclass(frozen=True)
class Operator:
    """function(images, parameters, backend) -> the images, then the statistics, that the operator returns."""

    images: Sequence[tuple[int, ...]]
    parameters: Sequence[tuple[int, ...]]
    function: Callable[[Sequence[Tensor], Sequence[Tensor], str | None], Sequence[Tensor]]
    outputs: int = 1  # images among what it returns

    def images_in(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Those as large as an image of three channels; maps of one or two are gates, or sums over channels."""
        return [t for t in tensors if t.numel() >= N * 3 * H * W and tuple(t.shape) not in self.parameters]

    def drawn(self, dtype: torch.dtype, seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
        """Images of that dtype and float32 parameters (float64 beside float64), leaves; a scale of their own each."""
        generator = torch.Generator().manual_seed(seed)
        wide = torch.promote_types(dtype, torch.float32)

        def draw(size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            fan = torch.Size(size[1:]).numel() if len(size) == 4 and size not in (IMAGE, MAPS) else 1
            drawn = torch.randn(size, generator=generator, dtype=torch.float64) / fan**0.5
            return drawn.to(dtype).requires_grad_()

        return [draw(size, dtype) for size in self.images], [draw(size, wide) for size in self.parameters]


def _front(i: Sequence[Tensor], p: Sequence[Tensor], backend: str | None) -> Sequence[Tensor]:
    lists = p[:2], p[2:4], *p[4:8], p[8:10], p[10:12], *p[12:]
    return [ops.rdfe_front(i[0], *lists, backend=backend)]  # type: ignore[arg-type]


def _gate(i: Sequence[Tensor], p: Sequence[Tensor], backend: str | None) -> Sequence[Tensor]:
    z, x, a, b = i
    return [ops.hourglass_gate(z, x, p[0], p[1], a, p[2], p[3], b, p[4], p[5], p[6], p[7], backend=backend)]


def _conv(i: Sequence[Tensor], p: Sequence[Tensor], backend: str | None) -> Sequence[Any]:
    return ops.norm_act_conv(*i, *p, backend=backend)  # type: ignore[call-overload]


OPERATORS = {
    "channel_attention": Operator(
        [IMAGE],
        [(3 * C, C, 1, 1), (3 * C, 1, 3, 3), (HEADS, 1, 1), (C, C, 1, 1)],
        lambda i, p, backend: [ops.channel_attention(*i, *p, HEADS, backend=backend)],  # type: ignore[misc]
    ),
    "channel_moments": Operator([IMAGE], [], lambda i, p, backend: ops.channel_moments(*i, backend), outputs=0),
    "hourglass_gate": Operator([IMAGE, IMAGE, MAPS, MAPS], GATES, _gate),
    "layer_norm2d": Operator(
        [IMAGE], [VECTOR, VECTOR], lambda i, p, backend: [ops.layer_norm2d(*i, *p, backend=backend)]
    ),
    "multiscale_dwconv": Operator(
        [IMAGE],
        [*DEPTHWISE, (N, C, 1, 1)],
        lambda i, p, backend: ops.multiscale_dwconv(i[0], p[:2], p[2:4], p[4], backend=backend),
        outputs=2,
    ),
    "norm_act_conv": Operator([IMAGE], [VECTOR, VECTOR, (M, C, 3, 3)], _conv),
    "rdfe_front": Operator([IMAGE], FRONT, _front),
    "skaf_descriptor": Operator(
        [IMAGE],
        [(C, C, 5, 5), (C, C, 7, 7), VECTOR, VECTOR],
        lambda i, p, backend: [ops.skaf_descriptor(i[0], p[:2], p[2:], backend=backend)],
    ),
    "skaf_gate": Operator(
        [(N, 2, H, W), IMAGE, IMAGE, IMAGE],
        [(2, 2, 7, 7), (2,)],
        lambda i, p, backend: [ops.skaf_gate(i[0], *p, *i[1:], backend=backend)],
    ),
}
