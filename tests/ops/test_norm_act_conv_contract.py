"""norm_act_conv's and channel_moments' promises beside their values: autograd, autocast, compiling and refusals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from aminet_fast.ops import channel_moments, norm_act_conv, norm_act_conv_prepack
from aminet_fast.reference.frm import norm_act_conv_ref
from tests.ops.norm_act_conv_inputs import BACKENDS, OPTIONS, SHAPES, arguments, compiled_only, output_gradients, stored


@compiled_only
@pytest.mark.parametrize("need", [0, 1, 2, 3, (0, 3), (1, 2)], ids=str)
@pytest.mark.parametrize("options", OPTIONS[1:7:2], ids=str)
def test_only_what_is_needed(need: int | tuple[int, ...], options: tuple[int, str, bool]) -> None:
    inputs = arguments(SHAPES[3], torch.float32)
    wanted = (need,) if isinstance(need, int) else need
    everything = [t.clone().requires_grad_() for t in inputs]
    outputs = norm_act_conv(*everything, 0.2, *options, backend="cpu")
    gradients = output_gradients(outputs)
    expected = torch.autograd.grad(outputs, everything, gradients)
    some = [t.clone().requires_grad_(i in wanted) for i, t in enumerate(inputs)]
    torch.autograd.backward(norm_act_conv(*some, 0.2, *options, backend="cpu"), gradients)
    for i, tensor in enumerate(some):
        assert (tensor.grad is not None) == (i in wanted)
        assert tensor.grad is None or torch.equal(tensor.grad, expected[i])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_without_moments(dtype: torch.dtype, backend: str) -> None:
    inputs = [t.requires_grad_() for t in arguments(SHAPES[3], dtype)]
    y, mean, var = norm_act_conv(*inputs, moments=False, backend=backend)
    assert mean is None
    assert var is None
    with_moments = norm_act_conv(*inputs, backend=backend)[0]
    assert torch.equal(y, with_moments)
    dy = torch.randn_like(y)
    for one, two in zip(torch.autograd.grad(y, inputs, dy), torch.autograd.grad(with_moments, inputs, dy), strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("output", [0, 1, 2])
def test_gradient_of_one_output(output: int, backend: str) -> None:
    inputs = [t.requires_grad_() for t in arguments(SHAPES[3], torch.float64)]
    oracle = [t.detach().requires_grad_() for t in inputs]
    found = torch.autograd.grad(norm_act_conv(*inputs, backend=backend)[output].sin().sum(), inputs)
    torch.testing.assert_close(found, torch.autograd.grad(norm_act_conv_ref(*oracle)[output].sin().sum(), oracle))


@compiled_only
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradcheck(options: tuple[int, str, bool]) -> None:
    inputs = [t.requires_grad_() for t in arguments((2, 3, 3, 4, 2), torch.float64)]
    assert torch.autograd.gradcheck(lambda *t: norm_act_conv(*t, 0.2, *options), inputs)
    assert torch.autograd.gradcheck(channel_moments, inputs[:1])


@compiled_only
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_packed_weights_change_nothing(options: tuple[int, str, bool], dtype: torch.dtype) -> None:
    stride, _, upsample = options
    x, scale, shift, weight = arguments(SHAPES[4], dtype)
    (packed,) = norm_act_conv_prepack([weight], [stride], [upsample])
    assert (packed is None) == (dtype == torch.bfloat16 or (stride == 2 and upsample))
    plain = norm_act_conv(x, scale, shift, weight, 0.2, *options)
    for one, other in zip(norm_act_conv(x, scale, shift, weight, 0.2, *options, packed=packed), plain, strict=True):
        assert torch.equal(one, other)
    if packed is not None:  # it is what runs
        zeros = norm_act_conv(x, scale, shift, weight, 0.2, *options, packed=torch.zeros_like(packed))[0]
        assert not zeros.any()
        unfit = norm_act_conv(x, scale, shift, weight, 0.2, *options, packed=packed[1:])[0]
        assert torch.equal(unfit, plain[0])


@compiled_only
def test_prepack_of_several_layers() -> None:
    weights = [torch.randn(5, 3, 3, 3), torch.randn(24, 7, 3, 3).contiguous(memory_format=torch.channels_last)]
    several = norm_act_conv_prepack(weights, [1, 2], [True, False])
    for n, packed in enumerate(several):
        (alone,) = norm_act_conv_prepack(weights[n : n + 1], [1, 2][n : n + 1], [True, False][n : n + 1])
        assert packed is not None
        assert torch.equal(packed, alone)
    torch.library.opcheck(torch.ops.aminet_fast.norm_act_conv_prepack, (weights, [1, 2], [1, 0], torch.float32, True))
    assert norm_act_conv_prepack(weights, [1, 2], [True, False], torch.bfloat16) == [None, None]
    assert norm_act_conv_prepack(weights, [1, 2], [True, False], backend="reference") == [None, None]
    with pytest.raises(ValueError, match="2 weights, 1 strides and 2 upsamples"):
        norm_act_conv_prepack(weights, [1], [True, False])
    with pytest.raises(TypeError, match="weights must be a list of tensors"):
        norm_act_conv_prepack(weights[0], [1], [True])  # type: ignore[arg-type]


@compiled_only
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
@pytest.mark.parametrize("options", OPTIONS[1:7:2], ids=str)
def test_opcheck(layout: str, options: tuple[int, str, bool]) -> None:
    inputs = [t.detach().requires_grad_() for t in stored(arguments((2, 5, 3, 4, 7), torch.float32), layout)]
    stride, padding, upsample = options
    numbers = (0.2, stride, padding == "reflect", upsample)
    for moments in (True, False):
        torch.library.opcheck(torch.ops.aminet_fast.norm_act_conv_fwd, (*inputs, *numbers, moments))
    y, mean, var = torch.ops.aminet_fast.norm_act_conv_fwd(*[t.detach() for t in inputs], *numbers, True)
    backward = torch.ops.aminet_fast.norm_act_conv_bwd
    plain = [t.detach() for t in inputs]
    for needs in [(True, True), (False, True), (True, False)]:
        torch.library.opcheck(backward, (y, mean, var, *plain, y, mean, *numbers, *needs))
        torch.library.opcheck(backward, (y, None, None, *plain, mean, mean, *numbers, *needs))
    torch.library.opcheck(torch.ops.aminet_fast.channel_moments_fwd, inputs[:1])
    x = plain[0]
    channels = x.new_ones(x.shape[1])
    torch.library.opcheck(torch.ops.aminet_fast.channel_moments_bwd, (channels, channels, x, channels))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("low", [(), (0,), (0, 3), (0, 1, 2, 3)], ids=str)
def test_autocast_gives_the_convolutions_dtype(low: tuple[int, ...], backend: str) -> None:
    inputs = arguments(SHAPES[3], torch.float32)
    inputs = [(t.bfloat16() if i in low else t).requires_grad_() for i, t in enumerate(inputs)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, outputs = norm_act_conv_ref(*inputs), norm_act_conv(*inputs, backend=backend)
    assert outputs[0].dtype == torch.bfloat16
    assert outputs[1].dtype == outputs[2].dtype == torch.float32
    torch.testing.assert_close(outputs[0], expected[0], rtol=3e-2, atol=5e-2)
    gradients = torch.autograd.grad(outputs, inputs, output_gradients(outputs))
    assert [g.dtype for g in gradients] == [t.dtype for t in inputs]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("options", OPTIONS[1:7:2], ids=str)
def test_compiles_whole_and_once(backend: str, dynamic: bool, options: tuple[int, str, bool]) -> None:
    def both(x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        mean, var = channel_moments(x, backend)
        return *norm_act_conv(x, scale * var, shift + mean, weight, 0.2, *options, backend=backend), mean

    torch._dynamo.reset()
    compiled = torch.compile(both, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    sizes = [(4, 24, 5, 9, 13), (4, 24, 5, 9, 13)]
    sizes = [(4, 24, 5, 9, 13), (5, 24, 12, 8, 13), (6, 24, 7, 15, 13)] if dynamic else sizes
    for seed, size in enumerate(sizes):
        one, other = ([t.clone().requires_grad_() for t in arguments(size, torch.float32, seed)] for _ in range(2))
        with torch.compiler.set_stance("fail_on_recompile" if seed else "default"):
            outputs = compiled(*one)
        expected = both(*other)
        torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-5)
        gradients = output_gradients(outputs)
        found, wanted = (torch.autograd.grad(o, i, gradients) for o, i in ((outputs, one), (expected, other)))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@compiled_only
def test_second_derivative_is_refused() -> None:
    inputs = [t.requires_grad_() for t in arguments((1, 3, 2, 2, 2), torch.float64)]
    y = norm_act_conv(*inputs, backend="cpu")[0]
    (dx,) = torch.autograd.grad(y.square().sum(), inputs[0], create_graph=True)
    with pytest.raises(NotImplementedError, match=r"norm_act_conv has no second derivative.*reference"):
        dx.sum().backward()
    (dx,) = torch.autograd.grad(channel_moments(inputs[0], "cpu")[1].sum(), inputs[0], create_graph=True)
    with pytest.raises(NotImplementedError, match=r"channel_moments has no second derivative.*reference"):
        dx.sum().backward()


def test_refusals_name_the_argument() -> None:
    x, scale, shift, weight = arguments((2, 5, 3, 4, 7), torch.float32)
    for error, match, call in [
        (TypeError, r"x must be a tensor, got list", ([1.0], scale, shift, weight)),
        (TypeError, r"x must be one of float32.*got int64", (x.long(), scale, shift, weight)),
        (ValueError, r"x must be \[N, C, H, W\].*\[5, 3, 4\]", (x[0], scale, shift, weight)),
        (ValueError, r"scale must be \[5\].*\[4\]", (x, scale[1:], shift, weight)),
        (TypeError, r"shift must have x's dtype.*float64", (x, scale, shift.double(), weight)),
        (TypeError, r"weight must be a tensor, got NoneType", (x, scale, shift, None)),
        (TypeError, r"weight must have x's dtype.*float16", (x, scale, shift, weight.half())),
        (ValueError, r"weight must be \[K, 5, 3, 3\].*\[7, 4, 3, 3\]", (x, scale, shift, weight[:, 1:])),
        (ValueError, r"weight must be \[K, 5, 3, 3\].*\[7, 5, 3, 2\]", (x, scale, shift, weight[..., 1:])),
        (ValueError, r"weight is on meta and x on cpu", (x, scale, shift, weight.to("meta"))),
        (ValueError, r"stride must be 1 or 2, got 3", (x, scale, shift, weight, 0.2, 3)),
        (ValueError, r"padding must be one of zeros, reflect, got 'same'", (x, scale, shift, weight, 0.2, 1, "same")),
    ]:
        with pytest.raises(error, match=match):
            norm_act_conv(*call)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"channel_moments: x must be \[N, C, H, W\]"):
        channel_moments(x[0])
