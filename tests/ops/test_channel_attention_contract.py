"""channel_attention's promises beside its values: autograd, autocast, compiling, export and refusals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from aminet_fast.ops import channel_attention, channel_attention_prepack
from aminet_fast.reference.attention import channel_attention_ref
from tests.harness.layouts import laid_out
from tests.ops.channel_attention_inputs import BACKENDS, arguments, compiled_only, needing_gradients, tensors
from tests.ops.compiling import ways


@compiled_only
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (3,), (4,), (0, 4), (1, 2), (3, 4)], ids=str)
@pytest.mark.parametrize("channels", [6, 66])
def test_only_what_is_needed(channels: int, wanted: tuple[int, ...]) -> None:
    inputs, dy = arguments((2, channels, 5, 6), 2, torch.float32)
    everything = needing_gradients(inputs)
    expected = torch.autograd.grad(channel_attention(*everything, 2, backend="cpu"), tensors(everything), dy)
    some = [t.clone().requires_grad_(i in wanted) for i, t in enumerate(tensors(inputs))]
    channel_attention(*some, 2, backend="cpu").backward(dy)
    for i, tensor in enumerate(some):
        assert (tensor.grad is not None) == (i in wanted)
        assert tensor.grad is None or torch.equal(tensor.grad, expected[i])


@compiled_only
def test_what_the_backward_keeps() -> None:
    """Little but x below 64 channels; nothing of the pixels without gradients."""
    for channels, images in [(24, 1), (96, 4)]:
        inputs, _ = arguments((2, channels, 40, 40), 4, torch.float32)
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, to=saved: to.append(t.numel()) or t, lambda t: t):
            channel_attention(*needing_gradients(inputs), 4, backend="cpu")
        assert inputs[0] is not None
        small = sum(t.numel() for t in tensors(inputs)[1:]) + 4 * channels**2
        assert images * inputs[0].numel() <= sum(saved) <= images * inputs[0].numel() + small


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_autocast_gives_the_references_dtype(dtype: torch.dtype, backend: str) -> None:
    inputs, dy = arguments((2, 24, 5, 7), 2, torch.float32)
    inputs = needing_gradients(inputs)
    assert inputs[0] is not None
    x = inputs[0].detach().to(dtype).requires_grad_()
    weights = inputs[1:] if dtype != torch.float64 else [t.double() for t in tensors(inputs)[1:]]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = channel_attention_ref(x, *weights, 2)
        y = channel_attention(x, *weights, 2, backend=backend)
    assert y.dtype == expected.dtype
    torch.testing.assert_close(y, expected, rtol=3e-2, atol=4e-2)
    gradients = torch.autograd.grad(y, [x, *tensors(inputs)[1:]], dy.to(y.dtype))
    assert [g.dtype for g in gradients] == [dtype] + [torch.float32] * 4


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_float32_parameters_with_low_precision_images(dtype: torch.dtype, backend: str) -> None:
    inputs, dy = arguments((2, 24, 5, 7), 2, dtype)
    ours = [t.detach().to(dtype if i == 0 else torch.float32).requires_grad_() for i, t in enumerate(tensors(inputs))]
    y = channel_attention(*ours, 2, backend=backend)
    oracle = needing_gradients(inputs, torch.float64)
    expected = channel_attention_ref(*oracle, 2)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), expected, rtol=3e-2, atol=3e-2)
    gradients = torch.autograd.grad(y, ours, dy)
    for got, of, want in zip(gradients, ours, torch.autograd.grad(expected, tensors(oracle), dy.double()), strict=True):
        assert got.dtype == of.dtype
        torch.testing.assert_close(got.double(), want, rtol=5e-2, atol=5e-2 * want.abs().max().item())


@compiled_only
@pytest.mark.parametrize("shape", [(2, 4, 3, 4), (1, 66, 1, 2)], ids=str)
@pytest.mark.parametrize("normalised", [True, False])
def test_gradcheck(normalised: bool, shape: tuple[int, ...]) -> None:
    inputs, _ = arguments(shape, 2, torch.float64, normalised=normalised)
    fast = shape[1] > 8
    assert torch.autograd.gradcheck(lambda *a: channel_attention(*a, 2), needing_gradients(inputs), fast_mode=fast)


@compiled_only
@pytest.mark.parametrize(
    ("layout", "keep", "normalised"),
    [("contiguous", False, True), ("channels_last", True, True), ("sliced", True, False)],
)
def test_opcheck(layout: str, keep: bool, normalised: bool) -> None:
    inputs, dy = arguments((2, 6, 3, 4), 2, torch.float32, normalised=normalised)
    x, *rest = inputs
    assert x is not None
    inputs = [laid_out(x, layout), *rest]
    _, *saved = torch.ops.aminet_fast.channel_attention_fwd(*inputs, 2, keep)
    for needs in [(True, True, True), (False, True, False), (True, False, False), (False, False, False)]:
        torch.library.opcheck(torch.ops.aminet_fast.channel_attention_bwd, (dy, *inputs, *saved, 2, *needs))
    needing = [t if t is None else t.detach().requires_grad_() for t in inputs]
    torch.library.opcheck(torch.ops.aminet_fast.channel_attention_fwd, (*needing, 2, keep))


@ways
def test_compiles_whole_and_once(backend: str, dynamic: bool, autocast: bool) -> None:
    channels = 24 if dynamic else 72  # the forward keeps something for the backward from 64 on
    torch._dynamo.reset()
    compiled = torch.compile(channel_attention, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    # Sizes unlike one another, which torch.compile would take for the same symbols.
    sizes = [(5, 9), (5, 9)] if not dynamic else [(5, 9), (11, 4), (2, 7)]
    for seed, (h, w) in enumerate(sizes):
        inputs, dy = arguments((6 + seed * dynamic, channels, h, w), 8, torch.float32, seed)
        one, other = needing_gradients(inputs), needing_gradients(inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            with torch.compiler.set_stance("fail_on_recompile" if seed else "default"):
                y = compiled(*one, 8, backend=backend)
            expected = channel_attention(*other, 8, backend=backend)
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
        gradients = [
            torch.autograd.grad(out, tensors(of), dy.to(out.dtype)) for out, of in ((y, one), (expected, other))
        ]
        tolerance = 3e-2 if autocast else 1e-4
        torch.testing.assert_close(*gradients, rtol=tolerance, atol=tolerance)


@compiled_only
def test_exports() -> None:
    class Attention(torch.nn.Module):
        def forward(self, *inputs: Tensor) -> Tensor:
            return channel_attention(*inputs, 2)

    inputs, _ = arguments((2, 24, 6, 8), 2, torch.float32)
    sizes = {2: torch.export.Dim("height", min=2), 3: torch.export.Dim("width", min=2)}
    program = torch.export.export(Attention(), tuple(tensors(inputs)), dynamic_shapes=((sizes, *[None] * 4),))
    assert "aminet_fast.channel_attention_fwd" in str(program.graph)
    other, _ = arguments((2, 24, 3, 11), 2, torch.float32)
    torch.testing.assert_close(program.module()(*other), channel_attention(*other, 2))


def test_shapes_without_data() -> None:
    inputs, _ = arguments((2, 24, 5, 7), 2, torch.bfloat16)
    x, *rest = (t.to("meta") for t in tensors(inputs))
    x = x.to(memory_format=torch.channels_last)
    y, _, attn, kept = torch.ops.aminet_fast.channel_attention_fwd(x, *rest, 2, True)
    assert (y.shape, y.stride(), y.dtype) == (x.shape, x.stride(), torch.bfloat16)
    # Only the CPU's kernels keep planes of their sums' dtype.
    assert (attn.shape, kept.shape, kept.dtype) == ((2, 24, 12), (2, 72, 5, 7), torch.bfloat16)


@compiled_only
def test_second_derivative_is_refused() -> None:
    inputs, _ = arguments((1, 4, 2, 2), 2, torch.float64)
    ours = needing_gradients(inputs)
    y = channel_attention(*ours, 2, backend="cpu")
    (dx,) = torch.autograd.grad(y.square().sum(), tensors(ours)[0], create_graph=True)
    with pytest.raises(NotImplementedError, match=r"channel_attention has no second derivative.*reference"):
        dx.sum().backward()


def test_refusals_name_the_argument() -> None:
    inputs, _ = arguments((2, 6, 3, 4), 2, torch.float32)
    x, qkv, dw, t, proj = tensors(inputs)
    for error, match, call in [
        (TypeError, r"x must be a tensor, got list", ([1.0], qkv, dw, t, proj, 2)),
        (TypeError, r"x must be one of float32.*got int64", (x.long(), qkv, dw, t, proj, 2)),
        (ValueError, r"x must be \[N, C, H, W\].*\[0, 6, 3, 4\]", (x[:0], qkv, dw, t, proj, 2)),
        (TypeError, r"heads must be an int, got float", (x, qkv, dw, t, proj, 2.0)),
        (ValueError, r"heads must divide the 6 channels of x, got 4", (x, qkv, dw, t, proj, 4)),
        (ValueError, r"heads must divide the 6 channels of x, got 0", (x, qkv, dw, t, proj, 0)),
        (ValueError, r"qkv_weight must be \[18, 6, 1, 1\].*got float32 \[17, 6", (x, qkv[:-1], dw, t, proj, 2)),
        (ValueError, r"dw_weight must be \[18, 1, 3, 3\].*\[18, 1, 3, 2\]", (x, qkv, dw[..., :2], t, proj, 2)),
        (ValueError, r"temperature must be \[2, 1, 1\].*got float32 \[2\]", (x, qkv, dw, t.flatten(), proj, 2)),
        (ValueError, r"proj_weight must be \[6, 6, 1, 1\].*\[5, 6, 1, 1\]", (x, qkv, dw, t, proj[:5], 2)),
        (TypeError, r"proj_weight must be a tensor, got NoneType", (x, qkv, dw, t, None, 2)),
        (TypeError, r"dw_weight must have x's dtype.*or float32.*float64", (x, qkv, dw.double(), t, proj, 2)),
        (TypeError, r"temperature must have x's dtype.*float64", (x, qkv, dw, t.double(), proj, 2)),
        (ValueError, r"proj_weight is on meta and x on cpu", (x, qkv, dw, t, proj.to("meta"), 2)),
        (ValueError, r"backend='fastest' is unknown: use one of auto", (x, qkv, dw, t, proj, 2, "fastest")),
    ]:
        with pytest.raises(error, match=match):
            channel_attention(*call)  # type: ignore[arg-type]


@compiled_only
def test_packed_weights_are_checked_and_left_alone() -> None:
    """On the CPU, whose kernels have no use for them."""
    x, qkv, dw, t, proj = tensors(arguments((2, 6, 3, 4), 2, torch.float32)[0])
    assert channel_attention_prepack(qkv) is None
    right = torch.full_like(qkv, torch.nan, dtype=torch.bfloat16)
    call = x, qkv, dw, t, proj, 2
    assert torch.equal(channel_attention(*call, packed=right), channel_attention(*call))
    for error, match, wrong in [
        (TypeError, r"packed must be a bfloat16 tensor or None, got list", [right]),
        (TypeError, r"packed must be a bfloat16 tensor or None, got float32", qkv),
        (ValueError, r"packed must be channel_attention_prepack of qkv_weight, \[18, 6, 1, 1\] on cpu", right[1:]),
        (ValueError, r"packed must be channel_attention_prepack of .* on meta", right.to("meta")),
    ]:
        with pytest.raises(error, match=match):
            channel_attention(*call, packed=wrong)  # type: ignore[arg-type]
