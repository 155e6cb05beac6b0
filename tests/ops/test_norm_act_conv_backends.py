"""norm_act_conv on GPUs, without one: what compiled kernels refuse, which of them a call asks for, packed weights."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from aminet_fast.ops import _library, norm_act_conv_prepack
from tests.harness.triton.cases_norm_act_conv import OPTIONS, Option, packed_by_hand
from tests.ops.norm_act_conv_inputs import arguments, compiled_only

module = importlib.import_module("aminet_fast.ops.norm_act_conv")


def calls_of(n: int, c: int, h: int, w: int, k: int, stride: int = 1, upsample: bool = False) -> dict[str, list[Any]]:
    """Arguments of both operators, as a dispatcher gives them: without those behind that have their defaults."""
    x, weight = torch.empty(n, c, h, w, device="meta"), torch.empty(k, c, 3, 3, device="meta")
    out_h, out_w = ((size * (2 if upsample else 1) - 1) // stride + 1 for size in (h, w))
    y, channel, output = (torch.empty(size, device="meta") for size in ((n, k, out_h, out_w), c, k))
    options = [0.2, stride, True, upsample]
    return {
        "fwd": [x, channel, channel, weight, *options, True],
        "bwd": [y, None, None, x, channel, channel, weight, y, output, *options, True, True],
    }


@pytest.mark.parametrize("suffix", ["fwd", "bwd"])
@pytest.mark.parametrize(
    ("sizes", "options", "reason"),
    [
        ((1, 8, 2, 2, 8), (1, False), ""),
        ((3, 24, 5, 7, 64), (2, False), ""),
        ((1, 64, 2, 9, 64), (1, True), ""),
        ((1, 8, 2**14, 2**14 - 1, 8), (1, False), ""),  # 2**31 elements less 2**17
        ((2**10, 8, 2**10, 2**9, 8), (1, False), ""),  # 2**32 in all images
        ((1, 20, 4, 4, 8), (1, False), "it is for multiples of 8 inputs and outputs, not for 20 and 8"),
        ((1, 8, 4, 4, 3), (1, False), "it is for multiples of 8 inputs and outputs, not for 8 and 3"),
        ((1, 2048, 4, 4, 4088), (1, False), ""),
        ((1, 2048, 4, 4, 4096), (1, False), "it is for fewer than 2**23 inputs times outputs, not for 2048 and 4096"),
        ((1, 8, 1, 4, 8), (1, False), "maps of one row or one column"),
        ((1, 8, 4, 1, 8), (1, False), "maps of one row or one column"),
        ((1, 8, 4, 4, 8), (2, True), "a stride of 2 with upsample"),
        ((0, 8, 4, 4, 8), (1, False), "there are no images"),
        ((1, 8, 2**14, 2**14, 8), (2, False), "an image has 2**31 elements or more"),  # x
        ((1, 8, 2**13, 2**13, 8), (1, True), "an image has 2**31 elements or more"),  # y
        ((1, 8, 2**12, 2**12, 128), (1, False), "an image has 2**31 elements or more"),  # y
    ],
    ids=str,
)
def test_what_compiled_kernels_refuse(
    sizes: tuple[int, ...], options: tuple[int, bool], reason: str, suffix: str
) -> None:
    assert _library._implemented[f"norm_act_conv_{suffix}"](*calls_of(*sizes, *options)[suffix]) == reason


@pytest.mark.parametrize("suffix", ["fwd", "bwd"])
def test_the_table_is_asked_about_x(suffix: str) -> None:
    call = calls_of(2, 24, 6, 5, 64, stride=2)[suffix]
    data, channels = module._about(*call)
    assert (tuple(data.shape), channels) == ((2, 24, 6, 5), 24)


class Seen(TorchDispatchMode):
    """The last argument of each of the operator's calls."""

    def __init__(self) -> None:
        super().__init__()
        self.last: dict[str, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name.startswith("aminet_fast::norm_act_conv"):
            self.last[func._schema.name.removeprefix("aminet_fast::norm_act_conv_")] = args[-1]
        return func(*args, **(kwargs or {}))


@compiled_only
@pytest.mark.parametrize("moments", [True, False])
@pytest.mark.parametrize("wanted", ["cuda", "triton"])
def test_backward_asks_for_the_forwards_backend(wanted: str, moments: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.backends, "choose", lambda *_: wanted)  # which says nothing on the CPU
    x, scale, shift, weight = (t.requires_grad_() for t in arguments((2, 8, 4, 5, 16), torch.float32))
    with Seen() as seen:
        y = module.norm_act_conv(x, scale, shift, weight, moments=moments)[0]
        y.sum().backward()
    assert seen.last == {"fwd": wanted, "bwd": wanted}
    assert x.grad is not None


@pytest.mark.parametrize("backward", [True, False])
@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_what_weights_are_packed_into_on_cuda_devices(
    option: Option, backward: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stride, _, upsample = option
    monkeypatch.setattr(module, "triton_problem", lambda: "")
    monkeypatch.setattr(module.backends, "choose", lambda *_: "cuda")
    whole = packed_by_hand(torch.ones(5, 3, 3, 3), option)
    forward = {True: 16, False: 9}[upsample] if stride == 1 else {True: 4, False: 9}[upsample]
    with FakeTensorMode():
        weight = torch.empty(5, 3, 3, 3, device="cuda")
        (packed,) = norm_act_conv_prepack([weight], [stride], [upsample], torch.bfloat16, backward)
    assert packed is not None
    assert (packed.dtype, packed.dim()) == (torch.bfloat16, 1)
    assert packed.numel() == (whole.numel() if backward else forward * 15)


def test_without_triton_nothing_packs_on_cuda_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "triton_problem", lambda: "no C compiler")
    monkeypatch.setattr(module.backends, "choose", lambda *_: "cuda")
    with FakeTensorMode():
        weights: list[Tensor] = [torch.empty(8, 8, 3, 3, device="cuda") for _ in range(2)]
        assert norm_act_conv_prepack(weights, [1, 2], [True, False]) == [None, None]
