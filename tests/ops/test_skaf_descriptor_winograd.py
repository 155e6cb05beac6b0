"""skaf_descriptor's forward by Winograd: borders of tiles, odd channels, ties, packed weights, rounding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from aminet_fast.ops import skaf_descriptor, skaf_descriptor_prepack
from aminet_fast.reference.skaf import skaf_features_ref
from tests.harness.layouts import LAYOUTS, laid_out
from tests.ops.test_skaf_descriptor import BACKENDS, all_results, arguments, check, compiled_only, leaves

ops = torch.ops.aminet_fast
# The 7x7's tiles are 2 pixels wide, the 5x5's 4, and begin one pixel outside the image.
SIDES = [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 19]


def prepacked(weights: list[Tensor]) -> Tensor:
    packed = skaf_descriptor_prepack(weights)
    assert packed is not None
    return packed


@compiled_only
@pytest.mark.parametrize("height", SIDES)
def test_every_border_of_the_tiles(height: int) -> None:
    for width in SIDES:
        check(arguments((1, 8, height, width), torch.float32, outputs=3, seed=width), winograd=True)


@compiled_only
@pytest.mark.parametrize("channels", [8, 9, 15, 16, 17, 23, 31, 47, 49, 95])
def test_channels_that_fill_no_vector(channels: int) -> None:
    check(arguments((2, channels, 13, 10), torch.float32), winograd=True)


@compiled_only
@pytest.mark.parametrize("outputs", [1, 7, 9, 16, 25, 47, 48, 50, 97])
def test_outputs_that_fill_no_vector_or_block(outputs: int) -> None:
    check(arguments((1, 12, 14, 17), torch.float32, outputs=outputs), winograd=True)


@compiled_only
@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(8, 60), st.integers(1, 24), st.integers(1, 24)),
    outputs=st.integers(1, 60),
    layout=st.sampled_from(LAYOUTS),
)
def test_any_shape(shape: tuple[int, ...], outputs: int, layout: str) -> None:
    x, weights, biases, dm = arguments(shape, torch.float32, outputs=outputs)
    check((laid_out(x, layout), [laid_out(w, layout) for w in weights], biases, laid_out(dm, layout)), winograd=True)


@compiled_only
@pytest.mark.parametrize("shape", [(2, 24, 33, 31), (1, 96, 16, 16), (4, 192, 16, 16)], ids=str)
def test_rounding_is_within_reach_of_the_direct_convolutions(shape: tuple[int, ...]) -> None:
    x, weights, biases, _ = arguments(shape, torch.float32)
    u = skaf_features_ref(x.double(), [w.double() for w in weights], [b.double() for b in biases])
    expected = torch.stack([u.mean(1), u.amax(1)], 1)
    # The sizes the other way around are not Winograd's.
    direct, winograd = (skaf_descriptor(x, weights[::i], biases[::i], backend="cpu") for i in (-1, 1))
    error, own = ((m - expected).square().mean((0, 2, 3)).sqrt() for m in (direct, winograd))
    assert not torch.equal(direct, winograd)
    # Measured at 24 to 192 channels: 2.1 to 2.6 for the max; 3.2 to 4.4 for the mean, whose error is a tenth as large.
    assert own[1] < 4 * error[1]
    assert own[0] < 6 * error[0]
    assert own[0] < error[1]


@compiled_only
@pytest.mark.parametrize("channels", [24, 40])
def test_the_first_of_equal_channels(channels: int) -> None:
    """Equal filters are equal to the bit wherever they stand in a vector, and 5x5 comes before 7x7."""
    x, weights, biases, _ = arguments((2, channels, 14, 11), torch.float32, outputs=100)
    for w, b in zip(weights, biases, strict=True):
        w[50:], b[50:] = w[:50], b[:50]
    m, argmax = ops.skaf_descriptor_fwd(x, weights, biases)
    assert (argmax % 100 < 50).all()
    assert set((argmax // 100).unique().tolist()) == {0, 1}
    expected = skaf_features_ref(x, weights, biases)
    torch.testing.assert_close(expected.gather(1, argmax.long()[:, None])[:, 0], m[:, 1], rtol=1e-4, atol=1e-4)
    zeros = [torch.zeros_like(w) for w in weights]
    m, argmax = ops.skaf_descriptor_fwd(x, zeros, [torch.full((100,), 0.25)] * 2)
    assert (argmax == 0).all()
    assert (m == 0.25).all()


@compiled_only
def test_nan_is_the_max_and_stays_near() -> None:
    x, weights, biases, _ = arguments((1, 8, 40, 40), torch.float32)
    clean = skaf_descriptor(x, weights, biases, backend="cpu")
    x[0, 3, 20, 20] = torch.nan
    m = skaf_descriptor(x, weights, biases, backend="cpu")
    assert m[:, :, 17:24, 17:24].isnan().all()
    m[:, :, 13:28, 13:28] = clean[:, :, 13:28, 13:28]  # 7 pixels in all directions
    assert torch.equal(m, clean)


@compiled_only
@pytest.mark.parametrize("shape", [(1, 8, 5, 6), (2, 24, 20, 21), (1, 100, 13, 14)], ids=str)
def test_packed_weights_change_no_bit(shape: tuple[int, ...]) -> None:
    inputs = arguments(shape, torch.float32)
    x, weights, biases, all_ = leaves(inputs)
    packed = prepacked(weights)
    assert not packed.requires_grad
    m, expected = (skaf_descriptor(x, weights, biases, backend="cpu", packed=p) for p in (packed, None))
    assert torch.equal(m, expected)
    gradients, wanted = (torch.autograd.grad(t, all_, inputs[3]) for t in (m, expected))
    assert all(torch.equal(a, b) for a, b in zip(gradients, wanted, strict=True))
    assert torch.equal(prepacked([laid_out(w, "channels_last") for w in weights]), packed)


@pytest.mark.parametrize("backend", BACKENDS)
def test_packed_weights_are_left_where_they_are_of_no_use(backend: str) -> None:
    x, weights, biases, _ = arguments((1, 96, 3, 3), torch.float32)
    packed = torch.full((2 * 96 * 96 * 64,), torch.nan)
    m = skaf_descriptor(x, weights, biases, backend=backend, packed=packed)
    assert torch.equal(m, skaf_descriptor(x, weights, biases, backend=backend))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert skaf_descriptor(x, weights, biases, backend=backend, packed=packed).isfinite().all()


def test_what_is_not_packed() -> None:
    assert skaf_descriptor_prepack(arguments((1, 7, 3, 4), torch.float32)[1]) is None
    assert skaf_descriptor_prepack(arguments((1, 8, 3, 4), torch.float64)[1]) is None
    assert skaf_descriptor_prepack(arguments((1, 8, 3, 4), torch.float32, (7, 5))[1]) is None
    assert skaf_descriptor_prepack(arguments((1, 8, 3, 4), torch.float32)[1], torch.bfloat16) is None
    assert skaf_descriptor_prepack([w.to("meta") for w in arguments((1, 8, 3, 4), torch.float32)[1]]) is None
    with pytest.raises(TypeError, match=r"weights must be a list of tensors, got NoneType"):
        skaf_descriptor_prepack(None)  # type: ignore[arg-type]


@compiled_only
def test_wrong_packed_weights_are_refused() -> None:
    x, weights, biases, _ = arguments((1, 8, 9, 9), torch.float32)
    packed = prepacked(weights)
    for error, match, wrong in [
        (TypeError, r"packed must be a 1-d float32 tensor or None, got list", [packed]),
        (TypeError, r"packed must be a 1-d float32 tensor or None, got float64", packed.double()),
        (ValueError, r"packed must be skaf_descriptor_prepack of weights, got float32 \[8191\]", packed[1:]),
    ]:
        with pytest.raises(error, match=match):
            skaf_descriptor(x, weights, biases, packed=wrong)
    with pytest.raises(ValueError, match=r"packed must be skaf_descriptor_prepack of weights"):
        skaf_descriptor(x, weights[::-1], biases, packed=packed)


@compiled_only
def test_packed_weights_compile_and_check() -> None:
    class Descriptor(nn.Module):
        def forward(self, x: Tensor, weights: list[Tensor], biases: list[Tensor], packed: Tensor) -> Tensor:
            return skaf_descriptor(x, weights, biases, packed=packed) + packed.sum() * 0

    x, weights, biases, _ = arguments((2, 8, 9, 7), torch.float32)
    packed = prepacked(weights)
    torch.library.opcheck(ops.skaf_descriptor_prepack, (weights,))
    torch.library.opcheck(ops.skaf_descriptor_fwd, (*leaves((x, weights, biases, x))[:3], packed))
    torch._dynamo.reset()
    compiled = torch.compile(Descriptor(), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, weights, biases, packed), skaf_descriptor(x, weights, biases))


@compiled_only
def test_every_number_is_written() -> None:
    """In deterministic mode torch fills new memory with NaN."""
    inputs = arguments((2, 9, 11, 13), torch.float32)
    expected = all_results(inputs)
    torch.use_deterministic_algorithms(True)
    try:
        results = all_results(inputs)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


@compiled_only
def test_threads_do_not_change_a_bit() -> None:
    before, results = torch.get_num_threads(), []
    inputs = arguments((3, 56, 22, 19), torch.float32)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append([prepacked(inputs[1]), *all_results(inputs)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
