"""skaf_gate's promises beside its values: autograd, autocast, compiling, export and refusals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from aminet_fast.ops import skaf_gate
from aminet_fast.reference.skaf import skaf_gate_ref
from tests.ops.compiling import ways
from tests.ops.skaf_gate_inputs import BACKENDS, IMAGES, arguments, compiled_only, stored


@compiled_only
@pytest.mark.parametrize("need", [*range(6), (3, 4, 5), (0, 1, 2), (1, 3)], ids=str)
def test_only_what_is_needed(need: int | tuple[int, ...]) -> None:
    *inputs, dy = arguments((2, 5, 6, 7), torch.float32)
    wanted = (need,) if isinstance(need, int) else need
    everything = [t.clone().requires_grad_() for t in inputs]
    expected = torch.autograd.grad(skaf_gate(*everything, backend="cpu"), everything, dy)
    some = [t.clone().requires_grad_(i in wanted) for i, t in enumerate(inputs)]
    skaf_gate(*some, backend="cpu").backward(dy)
    for i, tensor in enumerate(some):
        assert (tensor.grad is not None) == (i in wanted)
        assert tensor.grad is None or torch.equal(tensor.grad, expected[i])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("low", [(0, 3, 4, 5), (0, 3, 4), (0, 4), (3,), ()], ids=str)
def test_autocast_keeps_its_dtype(low: tuple[int, ...], backend: str) -> None:
    *inputs, dy = arguments((2, 24, 5, 7), torch.float32)
    inputs = [(t.bfloat16() if i in low else t).requires_grad_() for i, t in enumerate(inputs)]
    for count in (5, 6):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            expected, y = skaf_gate_ref(*inputs[:count]), skaf_gate(*inputs[:count], backend=backend)
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y, expected, rtol=2e-2, atol=3e-2, check_dtype=False)
        gradients = torch.autograd.grad(y, inputs[:count], dy.to(y.dtype))
        assert [g.dtype for g in gradients] == [t.dtype for t in inputs[:count]]


@compiled_only
@pytest.mark.parametrize("count", [5, 6])
def test_gradcheck(count: int) -> None:
    inputs = arguments((2, 3, 3, 4), torch.float64)[:count]
    assert torch.autograd.gradcheck(skaf_gate, [t.requires_grad_() for t in inputs])


@compiled_only
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
def test_opcheck(layout: str) -> None:
    *inputs, dy = arguments((2, 5, 3, 4), torch.float32)
    inputs = stored(inputs, [layout])
    m, weight, _, *branches, _ = inputs
    _, gates = torch.ops.aminet_fast.skaf_gate_fwd(*inputs)
    for needs in [(True, True, True), (False, True, False), (True, False, False), (False, False, True)]:
        torch.library.opcheck(torch.ops.aminet_fast.skaf_gate_bwd, (dy, m, weight, *branches, gates, *needs))
    needing = [t.detach().requires_grad_() for t in inputs]
    torch.library.opcheck(torch.ops.aminet_fast.skaf_gate_fwd, needing)
    torch.library.opcheck(torch.ops.aminet_fast.skaf_gate_fwd, (*needing[:5], None))


def test_exported_programs_find_its_arguments() -> None:
    """A saved program has them by name."""
    schema = torch.ops.aminet_fast.skaf_gate_fwd.default._schema
    assert [argument.name for argument in schema.arguments] == ["m", "weight", "bias", "g", "l", "residual"]


@ways
def test_compiles_whole_and_once(backend: str, dynamic: bool, autocast: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(skaf_gate, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    # Sizes unlike the weight's, which torch.compile would take for the same symbols.
    sizes = [(3, 24, 5, 9), (3, 24, 5, 9)] if not dynamic else [(3, 24, 5, 9), (4, 24, 9, 4), (5, 24, 3, 6)]
    for seed, size in enumerate(sizes):
        *inputs, dy = arguments(size, torch.float32, seed)
        one, other = ([t.clone().requires_grad_() for t in inputs] for _ in range(2))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            with torch.compiler.set_stance("fail_on_recompile" if seed else "default"):
                y = compiled(*one, backend=backend)
            expected = skaf_gate(*other, backend=backend)
        gradients = torch.autograd.grad(y, one, dy)
        torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(gradients, torch.autograd.grad(expected, other, dy), rtol=1e-5, atol=1e-5)


@compiled_only
def test_exports() -> None:
    class Gate(torch.nn.Module):
        def forward(self, *inputs: Tensor) -> Tensor:
            return skaf_gate(*inputs)

    inputs = arguments((2, 24, 6, 8), torch.float32)[:6]
    sizes = {2: torch.export.Dim("height", min=2), 3: torch.export.Dim("width", min=2)}
    shapes = (tuple(sizes if i in IMAGES else None for i in range(6)),)
    program = torch.export.export(Gate(), tuple(inputs), dynamic_shapes=shapes)
    assert "aminet_fast.skaf_gate_fwd" in str(program.graph)
    other = arguments((2, 24, 3, 11), torch.float32)[:6]
    torch.testing.assert_close(program.module()(*other), skaf_gate(*other))


def test_shapes_without_data() -> None:
    inputs = [t.to("meta") for t in arguments((2, 24, 5, 7), torch.bfloat16)[:6]]
    inputs[3] = inputs[3].to(memory_format=torch.channels_last)
    y, gates = torch.ops.aminet_fast.skaf_gate_fwd(*inputs)
    assert (y.shape, y.stride(), y.dtype) == (inputs[3].shape, inputs[3].stride(), torch.bfloat16)
    assert (gates.shape, gates.dtype) == ((2, 2, 5, 7), torch.float32)


@compiled_only
def test_second_derivative_is_refused() -> None:
    inputs = [t.requires_grad_() for t in arguments((1, 5, 2, 2), torch.float64)[:6]]
    y = skaf_gate(*inputs, backend="cpu")
    (dm,) = torch.autograd.grad(y.square().sum(), inputs[0], create_graph=True)
    with pytest.raises(NotImplementedError, match=r"skaf_gate has no second derivative.*reference"):
        dm.sum().backward()


def test_refusals_name_the_argument() -> None:
    m, weight, bias, g, o, r, _ = arguments((2, 5, 3, 4), torch.float32)
    for error, match, call in [
        (TypeError, r"g must be a tensor, got list", (m, weight, bias, [1.0], o)),
        (TypeError, r"g must be one of float32.*got int64", (m, weight, bias, g.long(), o)),
        (ValueError, r"g must be \[N, C, H, W\].*\[0, 5, 3, 4\]", (m, weight, bias, g[:0], o)),
        (ValueError, r"m must be \[2, 2, 3, 4\].*got float32 \[2, 1, 3, 4\]", (m[:, :1], weight, bias, g, o)),
        (ValueError, r"local must be \[2, 5, 3, 4\].*got float32 \[2, 5, 3, 3\]", (m, weight, bias, g, o[..., :3])),
        (ValueError, r"residual must be \[2, 5, 3, 4\]", (m, weight, bias, g, o, r[:1])),
        (ValueError, r"weight must be \[2, 2, K, K\] of odd K.*\[2, 2, 6, 6\]", (m, weight[..., 1:, 1:], bias, g, o)),
        (ValueError, r"weight must be \[2, 2, K, K\].*\[2, 1, 7, 7\]", (m, weight[:, 1:], bias, g, o)),
        (TypeError, r"weight must be a tensor, got NoneType", (m, None, bias, g, o)),
        (ValueError, r"bias must be \[2\].*\[1\]", (m, weight, bias[:1], g, o)),
        (TypeError, r"local must have g's dtype torch.float32.*bfloat16", (m, weight, bias, g, o.bfloat16())),
        (TypeError, r"residual must have g's dtype", (m, weight, bias, g, o, r.double())),
        (TypeError, r"m must have g's dtype.*or float32.*float64", (m.double(), weight, bias, g, o)),
        (TypeError, r"bias must have g's dtype.*or float32.*float64", (m, weight, bias.double(), g, o)),
        (ValueError, r"bias is on meta and g on cpu", (m, weight, bias.to("meta"), g, o)),
        (ValueError, r"backend='fastest' is unknown: use one of auto", (m, weight, bias, g, o, r, "fastest")),
    ]:
        with pytest.raises(error, match=match):
            skaf_gate(*call)  # type: ignore[arg-type]
