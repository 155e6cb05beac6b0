"""layer_norm2d against the reference in float64: values, gradients, layouts, compiling and refusals."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import LAYOUTS, laid_out
from tolerances import BACKWARD, FORWARD, assert_close
from torch import Tensor

from aminet_fast import backends
from aminet_fast._extension import load
from aminet_fast.ops import layer_norm2d
from aminet_fast.ops._library import DTYPES
from aminet_fast.reference.norm import layer_norm2d_ref

compiled_only = pytest.mark.skipif(load("_C")[0] is None, reason=f"needs the CPU extension: {load('_C')[1]}")
BACKENDS = ["reference", pytest.param("cpu", marks=compiled_only)]
SHAPES = [(1, 7, 1, 1), (3, 7, 11, 13), (2, 24, 9, 17), (1, 48, 8, 8), (2, 96, 5, 5), (1, 192, 4, 4)]


def arguments(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, weight, bias and the gradient of the output."""
    generator = torch.Generator().manual_seed(seed)
    x, dy = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    weight, bias = (torch.randn(shape[1], generator=generator, dtype=torch.float64) for _ in range(2))
    return tuple(t.to(dtype) for t in (x + 0.3, weight, bias, dy))  # type: ignore[return-value]


def check(x: Tensor, weight: Tensor, bias: Tensor, dy: Tensor, backend: str, eps: float = 1e-5) -> Tensor:
    """Output and all gradients against the reference in float64; the output for further checks."""
    ours = [t.detach().requires_grad_() for t in (x, weight, bias)]
    oracle = [t.detach().double().contiguous().requires_grad_() for t in (x, weight, bias)]
    y, expected = layer_norm2d(*ours, eps, backend=backend), layer_norm2d_ref(*oracle, eps)
    assert y.dtype == x.dtype
    assert_close(y, expected, FORWARD, "y")
    gradients = torch.autograd.grad(y, ours, dy)
    wanted = torch.autograd.grad(expected, oracle, dy.double())
    for name, gradient, want, of in zip(("dx", "dweight", "dbias"), gradients, wanted, ours, strict=True):
        assert gradient.dtype == of.dtype
        assert_close(gradient, want, BACKWARD, name)
    return y


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_reference_values_and_gradients(shape: tuple[int, ...], layout: str) -> None:
    x, weight, bias, dy = arguments(shape, torch.float32)
    check(laid_out(x, layout), weight, bias, laid_out(dy, layout), "reference")


@compiled_only
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cpu_values_and_gradients(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> None:
    x, weight, bias, dy = arguments(shape, dtype)
    check(laid_out(x, layout), weight, bias, laid_out(dy, layout), "cpu")


@compiled_only
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 1, 5, 3)], ids=str)
def test_one_channel_is_its_own_mean(shape: tuple[int, ...], layout: str) -> None:
    x, weight, bias, dy = arguments(shape, torch.float32)
    x = laid_out(x, layout).requires_grad_()
    y = layer_norm2d(x, weight, bias.requires_grad_(), backend="cpu")
    assert torch.equal(y, bias.expand(shape[0], shape[2], shape[3])[:, None])
    dx, dbias = torch.autograd.grad(y, (x, bias), dy)
    torch.testing.assert_close(dx, torch.zeros_like(dx), rtol=0, atol=1e-5)  # 1 / sqrt(eps) roundings
    torch.testing.assert_close(dbias, dy.sum((0, 2, 3)))


@compiled_only
@pytest.mark.parametrize("of_x", ["contiguous", "channels_last"])
@pytest.mark.parametrize("of_dy", ["contiguous", "channels_last", "sliced", "expanded"])
def test_gradient_of_another_layout(of_x: str, of_dy: str) -> None:
    x, weight, bias, dy = arguments((2, 24, 5, 7), torch.float32)
    dy = dy[:, :1, :1, :1].expand_as(dy) if of_dy == "expanded" else laid_out(dy, of_dy)
    check(laid_out(x, of_x), weight, bias, dy, "cpu")


@compiled_only
@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(4, 40), st.integers(1, 20), st.integers(1, 20)),
    layout=st.sampled_from(["contiguous", "channels_last", "sliced"]),
    eps=st.sampled_from([1e-5, 1e-3, 1.0]),
)
def test_any_shape(shape: tuple[int, ...], layout: str, eps: float) -> None:
    x, weight, bias, dy = arguments(shape, torch.float64)
    check(laid_out(x, layout), weight, bias, dy, "cpu", eps)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_layout_is_kept(layout: str, backend: str) -> None:
    x, weight, bias, dy = arguments((2, 24, 5, 7), torch.float32)
    x = laid_out(x, layout).requires_grad_()
    y = layer_norm2d(x, weight, bias, backend=backend)
    assert y.stride() == x.stride()
    y.backward(dy)
    assert x.grad is not None
    assert x.grad.stride() == x.stride()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_float32_parameters_with_low_precision_images(dtype: torch.dtype, backend: str) -> None:
    x, weight, bias, dy = arguments((2, 24, 5, 7), dtype)
    weight, bias = weight.float().requires_grad_(), bias.float().requires_grad_()
    y = layer_norm2d(x, weight, bias, backend=backend)
    expected = layer_norm2d_ref(x.double(), weight.double(), bias.double())
    assert_close(y, expected, FORWARD, "y")
    dweight, dbias = torch.autograd.grad(y, (weight, bias), dy)
    assert dweight.dtype == dbias.dtype == torch.float32
    assert_close(dbias.to(dtype), dy.double().sum((0, 2, 3)), BACKWARD, "dbias")


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_keeps_the_dtype(backend: str) -> None:
    x, weight, bias, _ = arguments((2, 24, 5, 7), torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, low = (layer_norm2d(t, weight, bias, backend=backend) for t in (x, x.bfloat16()))
    assert (y.dtype, low.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(y, layer_norm2d(x, weight, bias, backend=backend), rtol=0, atol=0)


@compiled_only
def test_gradcheck() -> None:
    x, weight, bias, _ = arguments((2, 5, 3, 4), torch.float64)
    assert torch.autograd.gradcheck(layer_norm2d, [t.requires_grad_() for t in (x, weight, bias)])


@compiled_only
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
def test_opcheck(layout: str) -> None:
    x, weight, bias, dy = arguments((2, 5, 3, 4), torch.float32)
    x = laid_out(x, layout)
    _, mean, rstd = torch.ops.aminet_fast.layer_norm2d_fwd(x, weight, bias, 1e-5)
    torch.library.opcheck(torch.ops.aminet_fast.layer_norm2d_bwd, (dy, x, weight, mean, rstd))
    needing = [t.detach().requires_grad_() for t in (x, weight, bias)]
    torch.library.opcheck(torch.ops.aminet_fast.layer_norm2d_fwd, (*needing, 1e-5))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_whole_and_once(backend: str, dynamic: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(layer_norm2d, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    sizes = [(2, 24, 5, 7), (2, 24, 5, 7)] if not dynamic else [(2, 24, 5, 7), (3, 24, 9, 4), (4, 24, 3, 6)]
    for seed, size in enumerate(sizes):
        x, weight, bias, dy = arguments(size, torch.float32, seed)
        one, other = ([t.clone().requires_grad_() for t in (x, weight, bias)] for _ in range(2))
        with torch.compiler.set_stance("fail_on_recompile" if seed else "default"):
            y = compiled(*one, backend=backend)
        gradients = torch.autograd.grad(y, one, dy)
        expected = layer_norm2d(*other, backend=backend)
        torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(gradients, torch.autograd.grad(expected, other, dy), rtol=1e-5, atol=1e-5)


@compiled_only
def test_exports() -> None:
    class Norm(torch.nn.Module):
        def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return layer_norm2d(x, weight, bias)

    x, weight, bias, _ = arguments((2, 24, 6, 8), torch.float32)
    height, width = torch.export.Dim("height", min=2), torch.export.Dim("width", min=2)
    shapes = ({2: height, 3: width}, None, None)
    program = torch.export.export(Norm(), (x, weight, bias), dynamic_shapes=shapes)
    assert "aminet_fast.layer_norm2d_fwd" in str(program.graph)
    other = arguments((2, 24, 3, 11), torch.float32)[0]
    torch.testing.assert_close(program.module()(other, weight, bias), layer_norm2d(other, weight, bias))


def test_shapes_without_data() -> None:
    x = torch.empty(2, 24, 5, 7, device="meta").to(memory_format=torch.channels_last)
    weight = torch.empty(24, device="meta")
    y, mean, rstd = torch.ops.aminet_fast.layer_norm2d_fwd(x, weight, weight, 1e-5)
    assert (y.shape, y.stride(), y.dtype) == (x.shape, x.stride(), x.dtype)
    assert mean.shape == rstd.shape == (2, 5, 7)


@compiled_only
def test_second_derivative_is_refused() -> None:
    x, weight, bias, _ = arguments((1, 5, 2, 2), torch.float64)
    x.requires_grad_()
    (dx,) = torch.autograd.grad(layer_norm2d(x, weight, bias, backend="cpu").square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"layer_norm2d has no second derivative.*reference"):
        dx.sum().backward()


@compiled_only
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_threads_do_not_change_a_bit(layout: str) -> None:
    x, weight, bias, dy = arguments((3, 24, 61, 67), torch.float32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            inputs = [t.detach().requires_grad_() for t in (laid_out(x, layout), weight, bias)]
            y = layer_norm2d(*inputs, backend="cpu")
            results.append((y, *torch.autograd.grad(y, inputs, dy)))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


@compiled_only
@pytest.mark.parametrize("capability", ["portable", "avx2"])
def test_every_copy_of_the_kernels(capability: str) -> None:
    """The copies for lesser processors run here too: the grid again, in a process told to use them."""
    code = f"""
import sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_layer_norm2d import DTYPES, LAYOUTS, SHAPES, arguments, check, laid_out, load
print(load("_C")[0].cpu_capability())
for dtype in DTYPES:
    for layout in LAYOUTS:
        for shape in SHAPES[1:3]:
            x, weight, bias, dy = arguments(shape, dtype)
            check(laid_out(x, layout), weight, bias, laid_out(dy, layout), "cpu")
"""
    environ = {**os.environ, "AMINET_FAST_CPU_CAPABILITY": capability}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    if result.stdout.strip() != capability:
        pytest.skip(f"this processor cannot run {capability}")


def test_refusals_name_the_argument() -> None:
    x, weight, bias, _ = arguments((2, 5, 3, 4), torch.float32)
    for error, match, call in [
        (TypeError, r"x must be a tensor, got list", ([1.0], weight, bias)),
        (TypeError, r"x must be one of float32.*got int64", (x.long(), weight, bias)),
        (ValueError, r"x must be \[N, C, H, W\].*\[5, 3, 4\]", (x[0], weight, bias)),
        (ValueError, r"x must be \[N, C, H, W\].*\[0, 5, 3, 4\]", (x[:0], weight, bias)),
        (ValueError, r"weight must be \[5\].*\[4\]", (x, weight[:4], bias)),
        (ValueError, r"bias must be \[5\].*\[5, 1\]", (x, weight, bias[:, None])),
        (TypeError, r"weight must have x's dtype.*float64", (x, weight.double(), bias)),
        (ValueError, r"bias is on meta and x on cpu", (x, weight, bias.to("meta"))),
        (ValueError, r"eps must not be negative, got -1", (x, weight, bias, -1)),
        (ValueError, r"backend='fastest' is unknown: use one of auto", (x, weight, bias, 1e-5, "fastest")),
    ]:
        with pytest.raises(error, match=match):
            layer_norm2d(*call)  # type: ignore[arg-type]


def test_missing_backend_falls_back_with_one_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "_logged", set())
    monkeypatch.setenv(backends.VARIABLE, "triton")
    x, weight, bias, _ = arguments((2, 5, 3, 4), torch.float32)
    for _ in range(2):
        torch.testing.assert_close(layer_norm2d(x, weight, bias), layer_norm2d_ref(x, weight, bias))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1
    assert "layer_norm2d runs as plain PyTorch on cpu: there is no triton kernel" in lines[0]
    assert backends.explain("layer_norm2d", "cpu", "reference").backend == "reference"
