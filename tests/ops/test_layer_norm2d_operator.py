"""layer_norm2d as an operator of torch: autocast, compiling, exporting, refusals, and falling back to the reference."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from aminet_fast.ops import backends, layer_norm2d
from aminet_fast.ops._library import DTYPES
from aminet_fast.reference.norm import layer_norm2d_ref
from tests.harness.layouts import laid_out
from tests.ops.layer_norm2d_inputs import BACKENDS, arguments, compiled_only
from tests.tolerances import FORWARD, assert_close


class Norm(torch.nn.Module):
    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return layer_norm2d(x, weight, bias)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_autocast_keeps_its_dtype(dtype: torch.dtype, low: torch.dtype, backend: str) -> None:
    x, weight, bias, _ = arguments((2, 24, 5, 7), dtype)
    if dtype != torch.float64:  # parameters stay float32 under autocast
        weight, bias = weight.float(), bias.float()
    with torch.autocast("cpu", dtype=low):
        y = layer_norm2d(x, weight, bias, backend=backend)
    read = x if dtype == torch.float64 else x.to(low)
    assert y.dtype == read.dtype
    assert_close(y, layer_norm2d_ref(read.double(), weight.double(), bias.double()), FORWARD, "y")


def test_autocast_of_cuda() -> None:
    """Where torch's layer norm returns float32. Shapes and dtypes alone, so that no GPU is needed."""
    with FakeTensorMode():
        x = torch.empty(2, 24, 5, 7, device="cuda", dtype=torch.float16)
        weight = torch.empty(24, device="cuda")
        assert layer_norm2d(x, weight, weight).dtype == torch.float16
        torch.set_autocast_enabled("cuda", True)
        try:
            assert layer_norm2d_ref(x, weight, weight).dtype == torch.float32
            assert layer_norm2d(x, weight, weight).dtype == torch.float16
            assert layer_norm2d(x.float(), weight, weight).dtype == torch.float16
            assert torch.ops.aminet_fast.layer_norm2d_fwd(x.float(), weight, weight, 1e-5)[0].dtype == torch.float16
        finally:
            torch.set_autocast_enabled("cuda", False)


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
    x, weight, bias, _ = arguments((2, 24, 6, 8), torch.float32)
    height, width = torch.export.Dim("height", min=2), torch.export.Dim("width", min=2)
    shapes = ({2: height, 3: width}, None, None)
    program = torch.export.export(Norm(), (x, weight, bias), dynamic_shapes=shapes)
    assert "aminet_fast.layer_norm2d_fwd" in str(program.graph)
    other = arguments((2, 24, 3, 11), torch.float32)[0]
    torch.testing.assert_close(program.module()(other, weight, bias), layer_norm2d(other, weight, bias))


@compiled_only
def test_an_exported_program_finds_the_kernels(tmp_path: Path) -> None:
    """It calls the operator itself, in a process that calls no function of the package."""
    x, weight, bias, _ = arguments((2, 24, 6, 8), torch.float32)
    torch.export.save(torch.export.export(Norm(), (x, weight, bias)), tmp_path / "norm.pt2")
    code = (
        "import sys, torch, aminet_fast.ops\n"
        "program = torch.export.load(sys.argv[1]).module()\n"
        "print(program(torch.ones(2, 24, 6, 8), torch.ones(24), torch.full((24,), 2.0)).mean().item())\n"
    )
    run = [sys.executable, "-c", code, str(tmp_path / "norm.pt2")]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(run, env=environ, capture_output=True, text=True, check=False)
    assert result.stdout == "2.0\n", result.stderr[-3000:]


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


@compiled_only
def test_the_operators_themselves_do_not_read_past_the_end() -> None:
    """A division by zero or a wild read would end this process."""
    x, weight, bias, dy = arguments((2, 5, 3, 4), torch.float32)
    forward, backward = torch.ops.aminet_fast.layer_norm2d_fwd, torch.ops.aminet_fast.layer_norm2d_bwd
    _, mean, rstd = forward(x, weight, bias, 1e-5)
    for match, call in [
        ("every size at least 1", lambda: forward(x[:, :0], weight[:0], bias[:0], 1e-5)),
        ("every size at least 1", lambda: backward(dy[:0], x[:0], weight, mean[:0], rstd[:0])),
        (r"weight and bias must be \[C\]", lambda: forward(x, weight[:4], bias, 1e-5)),
        (r"weight must be \[C\]", lambda: backward(dy, x, weight[:4], mean, rstd)),
        ("gradient must have the sizes of x", lambda: backward(dy[:1], x, weight, mean, rstd)),
        ("mean and rstd must be the forward's", lambda: backward(dy, x, weight, mean[:1], rstd)),
        ("mean and rstd must be the forward's", lambda: backward(dy, x, weight, mean, rstd.double())),
    ]:
        with pytest.raises(RuntimeError, match=match):
            call()
