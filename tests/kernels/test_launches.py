"""What the Triton functions launch: each kernel once where it has work, and next to nothing of torch's own.

They run on fake CUDA tensors and nothing is compiled: only names are noted. Parameters are channels_last, as those of a
model that was laid out so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.harness.triton.case import Arguments, Draw, mapped
from tests.harness.triton.cases_channel_attention import arguments as of_attention
from tests.harness.triton.cases_layer_norm2d import arguments as of_norm
from tests.harness.triton.cases_rdfe_front import arguments as of_front

triton = pytest.importorskip("triton", reason="Triton is not installed")

from aminet_fast import AMINet, AMINetConfig, freeze, ops, unfreeze  # noqa: E402
from aminet_fast.network import modules  # noqa: E402
from aminet_fast.ops.extension import kernels  # noqa: E402


class Torchs(TorchDispatchMode):
    """Notes torch's own operators but for views and room."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        space, name = func._schema.name.split("::")
        if space == "aten" and not func.is_view and "empty" not in name:
            self.names.append(f"torch's {name}")
        return func(*args, **(kwargs or {}))


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what was launched."""
    names: list[str] = []
    monkeypatch.setattr(triton.JITFunction, "run", lambda self, *_, **__: names.append(self.__name__))
    return names


@contextmanager
def noted(launches: list[str]) -> Iterator[list[str]]:
    launches.clear()
    with Torchs(launches):
        yield launches


def laid_out(t: Tensor) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t


def drawn(arguments: Any, **options: Any) -> Arguments:
    """A bfloat16 image beside parameters of float32, as under autocast."""
    given: Arguments = mapped(arguments(Draw(torch.float32, "cuda"), **options), laid_out)
    image = "y" if "y" in given else "x"
    return given | {image: given[image].to(torch.bfloat16)}


def parameters_of(front: Arguments) -> list[Tensor]:
    return [t for name, value in front.items() if name != "y" for t in (value if isinstance(value, list) else [value])]


def test_rdfe_front(launches: list[str]) -> None:
    module = kernels("rdfe_front")
    with torch.no_grad(), FakeTensorMode():
        front = drawn(of_front, shape=(2, 24, 16, 16))
        y, parameters = front["y"], parameters_of(front)
        with noted(launches):
            z, a, sums = module.rdfe_front_fwd(y, parameters)
        forward = ["_columns", "_windows", "_pack_kernel", "_unit", "_filter_kernel", "fuse_rows"]
        assert launches == forward
        packed = module.rdfe_front_prepack(
            [*parameters[:3], *parameters[10:13]], [*parameters[3:6], *parameters[13:16]]
        )
        with noted(launches):
            module.rdfe_front_fwd(y, parameters, packed)
        assert launches == [name for name in forward if name != "_pack_kernel"]
        with noted(launches):
            module.rdfe_front_bwd(z, y, a, sums, parameters, True, True)
        sums_over_pixels = ["_sums_kernel", "_sums_kernel", "_fold_kernel"]
        assert launches == [
            *("_pack_kernel", "_filter_kernel", "fuse_transposed", "_filter_kernel", *sums_over_pixels),
            *("_unit_backward", "input_gradient", "fuse_gradient", "_depthwise_gradients", "_totals_kernel"),
        ]
        with noted(launches):
            module.rdfe_front_bwd(z, y, a, sums, parameters, True, False)
        assert launches[4:] == ["_sums_kernel", "_fold_kernel", "_unit_backward", "input_gradient"]


def test_channel_attention(launches: list[str]) -> None:
    module = kernels("channel_attention")
    with torch.no_grad(), FakeTensorMode():
        attention = drawn(of_attention, n=2, c=48, h=16, w=16, heads=2)
        x, *parameters, heads = attention.values()
        with noted(launches):
            y, *between = module.channel_attention_fwd(x, *parameters, heads, True)
        forward = ["torch's _to_copy", "torch's mm", "gram_kernel", "softmax_kernel", "project_kernel"]
        assert launches == forward
        with noted(launches):
            module.channel_attention_fwd(x, *parameters, heads, True, parameters[0].to(torch.bfloat16))
        assert launches[1:] == forward[1:]  # the first is this call's
        with noted(launches):
            module.channel_attention_bwd(y, x, *parameters, *between, heads, True, True, True)
        projections = ["project_kernel"] * 3
        assert launches == [
            *("outer_kernel", "dsoftmax_kernel", "softmax_kernel", *projections, "outer_kernel", "_totals_kernel")
        ]


def test_layer_norm2d(launches: list[str]) -> None:
    module = kernels("layer_norm2d")
    with torch.no_grad(), FakeTensorMode():
        x, weight, bias = drawn(of_norm, n=2, c=24, h=16, w=16).values()
        with noted(launches):
            y, mean, rstd = module.layer_norm2d_fwd(x, weight, bias, 1e-5)
            dx, dweight, dbias = module.layer_norm2d_bwd(y, x, weight, mean, rstd)
        assert launches == ["_forward", "_backward", "_totals_kernel"]
        assert (dx.dtype, dweight.dtype, dbias.dtype) == (torch.bfloat16, torch.float32, torch.float32)


def _all(convs: torch.nn.ModuleList, kind: str) -> list[torch.Tensor]:
    return [getattr(conv, kind) for conv in convs]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_freeze_keeps_what_they_take(dtype: torch.dtype) -> None:
    with FakeTensorMode(), torch.device("cuda"):
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)  # fake parameters cannot be converted in place
        try:
            model = freeze(AMINet(AMINetConfig(width=8, hourglass_width=8)))
        finally:
            torch.set_default_dtype(before)
        rdfe, sa = model.enc[0].rdfe, model.enc[0].sa
        weights = [t for convs in (rdfe.dw1, rdfe.dw2) for kind in ("weight", "bias") for t in _all(convs, kind)]
        of_rdfe = modules._packed(rdfe, weights)
        assert (of_rdfe.shape, of_rdfe.dtype) == ((2 * (83 + 3), 8), torch.float32)
        if dtype == torch.float32:
            of_sa = modules._packed(sa, [sa.qkv.weight])
            assert (of_sa.shape, of_sa.dtype) == (sa.qkv.weight.shape, torch.bfloat16)
            rounded = [weight.to(torch.bfloat16) for weight in weights]  # as of model.bfloat16()
            assert modules._packed(rdfe, rounded) is None
        else:
            assert sa.packed is None  # there is nothing to convert
        rdfe.dw2[0].weight.requires_grad_(True)
        assert modules._packed(rdfe, weights) is None
        unfreeze(model)
        assert rdfe.packed is None
        assert sa.packed is None


def test_what_is_not_packed() -> None:
    with FakeTensorMode():
        front = of_front(Draw(torch.float64, "cuda"), shape=(1, 8, 4, 4))
        lists = [front[name] for name in ("dw1_weights", "dw1_biases", "dw2_weights", "dw2_biases")]
        assert ops.rdfe_front_prepack(*lists) is None
        assert ops.rdfe_front_prepack(*[[t.cpu() for t in tensors] for tensors in lists]) is None
        packed = ops.rdfe_front_prepack(*[[t.float() for t in tensors] for tensors in lists])
        assert packed is not None
        assert not packed.requires_grad
        weight = torch.empty(24, 8, 1, 1, device="cuda")
        assert ops.channel_attention_prepack(weight.half()) is None
        assert ops.channel_attention_prepack(weight.cpu()) is None
    with pytest.raises(TypeError, match=r"qkv_weight must be a tensor, got list"):
        ops.channel_attention_prepack([])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"dw1_biases must be a list of tensors"):
        ops.rdfe_front_prepack([torch.zeros(1)], [None], [], [])  # type: ignore[list-item]
