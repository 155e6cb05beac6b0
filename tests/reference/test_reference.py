"""The oracle: parameter counts of the paper and of every module, arithmetic, shapes, gradients, pinned values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from aminet_fast import AMINet, AMINetConfig, get_config, list_configs
from aminet_fast.reference.rdfe import reflect_pad

TINY = AMINetConfig(width=4, heads=(1, 2, 2, 4), hourglass_width=4)
COUNTS = {  # channels: SA, RDFE, SKAF, LGFI (LN's 2c inside), EDFF
    24: (2_953, 119_463, 42_870, 165_334, 44_046),
    48: (10_514, 189_453, 170_790, 370_853, 175_446),
    96: (39_460, 405_465, 682_374, 1_127_491, 700_902),
    192: (152_648, 1_141_617, 2_728_518, 4_023_167, None),
}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def aminet() -> AMINet:
    return AMINet(backend="reference")


def fill(model: nn.Module, seed: int = 0) -> nn.Module:
    """Float64 weights from NumPy's frozen RandomState stream, the same with every torch and on every machine."""
    rng = np.random.RandomState(seed)
    state = {}
    for key, value in model.state_dict().items():
        if not value.is_floating_point():
            state[key] = value
            continue
        noise = torch.from_numpy(rng.standard_normal(tuple(value.shape)))
        if value.dim() > 1 and "temperature" not in key:
            state[key] = noise / (value[0].numel() ** 0.5)
        else:  # scales and running variances stay positive, biases and means small
            state[key] = 1 + 0.2 * noise.tanh() if key.endswith(("weight", "var", "temperature")) else 0.1 * noise
    model.double().load_state_dict(state)
    return model


def test_parameter_count_of_the_network(aminet: AMINet) -> None:
    assert count(aminet) == 12_610_914


@pytest.mark.parametrize("stage", range(4))
def test_parameter_count_of_every_module(aminet: AMINet, stage: int) -> None:
    block = aminet.mid[0] if stage == 3 else aminet.enc[stage]
    sa, rdfe, skaf, lgfi, edff = COUNTS[24 << stage]
    assert (count(block.sa), count(block.rdfe), count(block.skaf), count(block)) == (sa, rdfe, skaf, lgfi)
    if stage < 3:
        assert count(aminet.dec[2 - stage]) == lgfi
        assert count(aminet.edff[2 - stage]) == edff


@pytest.mark.parametrize(("name", "millions"), [("aminet", 12.611), ("ffn", 12.157), ("transformer", 11.065)])
def test_parameter_counts_of_tables_2_and_3(name: str, millions: float) -> None:
    with torch.device("meta"):
        assert round(count(AMINet(name, backend="reference")) / 1e6, 3) == millions


def test_multiply_accumulates(aminet: AMINet) -> None:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        aminet(torch.zeros(1, 3, 128, 128))
    assert counter.get_total_flops() / 2e9 == pytest.approx(13.3, abs=0.05)


@pytest.mark.parametrize("name", list_configs())
def test_every_configuration_keeps_the_shape_and_trains_every_parameter(name: str) -> None:
    config = get_config(name).replace(width=4, heads=[1, 1, 2, 4], hourglass_width=4, transformer_depth=1)
    model = AMINet(config, backend="reference")
    x = torch.randn(2, 3, 32, 48)
    y = model(x)
    assert y.shape == x.shape
    (y * torch.randn_like(y)).sum().backward()
    idle = [k for k, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert idle == []


OPEN_POINTS = [
    {"attention_scale": "sqrt"},
    {"dw_twice": False},
    {"attention_unit": "pixel"},
    {"frm_convs": 1},
    {"frm_convs": 3},
    {"hourglass_depth": 2},
    {"hourglass_depth": 4},
    {"skaf_conv": "half"},
    {"skaf_conv": "depthwise"},
    {"skaf_pool_axis": "spatial"},
    {"skaf_pool_axis": "spatial", "skaf_mix": False},
    {"skaf_pool_axis": "spatial", "skaf_mix": False, "skaf_kernels": [5]},
    {"skaf_mix": False},
    {"skaf_mix": False, "skaf_pools": ["max"]},
    {"skaf_kernels": []},
    {"lgfi_merge": "concat"},
    {"down": "unshuffle"},
    {"up": "transposed"},
    {"up": "nearest"},
]


@pytest.mark.parametrize("change", OPEN_POINTS, ids=str)
def test_open_points_change_the_output_and_keep_the_shape(change: dict[str, object]) -> None:
    def output(config: AMINetConfig) -> torch.Tensor:
        torch.manual_seed(0)
        return AMINet(config, backend="reference").eval()(torch.linspace(-1, 1, 3 * 128 * 128).reshape(1, 3, 128, 128))

    with torch.no_grad():
        changed, default = output(TINY.replace(**change)), output(TINY)
    assert changed.shape == default.shape
    assert changed.isfinite().all()
    assert (changed - default).abs().max() > 1e-4


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 48), (32, 16), (48, 80), (128, 128)])
def test_any_multiple_of_16(height: int, width: int) -> None:
    x = torch.randn(2, 3, height, width)
    assert AMINet(TINY, backend="reference")(x).shape == x.shape


@pytest.mark.parametrize("shape", [(1, 3, 100, 128), (1, 3, 128, 8), (1, 1, 128, 128), (3, 128, 128), (1, 3, 0, 16)])
def test_other_shapes_raise_with_what_came(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"AMINet takes .*got (\[|\d)"):
        AMINet(TINY, backend="reference")(torch.zeros(shape))


def test_deeper_hourglass_needs_a_larger_multiple() -> None:
    model = AMINet(TINY.replace(hourglass_depth=2), backend="reference")
    with pytest.raises(ValueError, match="divisible by 32; got 16x32"):
        model(torch.zeros(1, 3, 16, 32))


def test_reflect_pad_is_numpys() -> None:
    for shape in ((1, 2, 4, 5), (1, 2, 1, 5), (1, 2, 4, 1), (1, 2, 1, 1)):
        x = torch.randn(shape)
        expected = np.pad(x.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
        assert np.array_equal(reflect_pad(x).numpy(), expected)


def test_channels_last_gives_the_same_values() -> None:
    model = fill(AMINet(TINY, backend="reference")).eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    y = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(y, fill(AMINet(TINY, backend="reference")).eval()(x), rtol=1e-10, atol=1e-10)


# Mean, mean magnitude and a weighted sum of the output; computed once in float64 by this code after its agreement with
# the NumPy transcription of tests/reference/numpy_aminet.py, and pinned so that no later change moves them unseen.
PINS = {
    (16, 16): (-0.024259034009867467, 1.639462325491196, 0.031142987252522614),
    (48, 32): (-0.0008145532084417749, 2.1227934509047235, -0.011240467079139747),
    (128, 128): (-0.04666681109690409, 2.7548361991538903, -0.009442619948772062),
}


@pytest.mark.parametrize("size", [(16, 16), (48, 32), (128, 128)])
def test_pinned_outputs(size: tuple[int, int]) -> None:
    h, w = size
    model = fill(AMINet(AMINetConfig(width=8, hourglass_width=8), backend="reference")).eval()
    x = torch.from_numpy(np.random.RandomState(1).uniform(-1, 1, (2, 3, h, w)))
    with torch.no_grad():
        y = model(x)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape).sin()
    found = (y.mean().item(), y.abs().mean().item(), (y * weights).mean().item())
    assert found == pytest.approx(PINS[size], rel=1e-9, abs=1e-12)


ONE_OF_EACH = ("head", "enc.0", "down.0", "up.2", "edff.2", "tail")  # one module of every class


@pytest.mark.parametrize(
    ("training", "chosen"),
    [(False, ONE_OF_EACH), (True, ("enc.0", "edff.2")), pytest.param(False, "", marks=pytest.mark.slow)],
    ids=["eval", "train", "eval-all"],
)
def test_gradients_are_finite_differences(training: bool, chosen: str | tuple[str, ...]) -> None:
    """Central differences in float64 along a random direction of each chosen parameter and of the input."""
    model = fill(AMINet(TINY, backend="reference")).train(training)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0  # the differences must not move the running statistics
    rng = np.random.RandomState(2)
    shape = (2, 3, 32, 16) if training else (1, 3, 16, 16)
    x = torch.from_numpy(rng.uniform(-1, 1, shape)).requires_grad_()
    weights = torch.from_numpy(rng.standard_normal(shape))
    tensors = {"input": x, **{k: p for k, p in model.named_parameters() if k.startswith(chosen)}}
    assert all(any(k.startswith(part) for k in tensors) for part in chosen)

    def loss() -> torch.Tensor:
        return (model(x) * weights).sum()

    grads = torch.autograd.grad(loss(), list(tensors.values()))
    step = 1e-6
    with torch.no_grad():
        for (name, tensor), grad in zip(tensors.items(), grads, strict=True):
            direction = torch.from_numpy(rng.standard_normal(tuple(tensor.shape)))
            tensor += step * direction
            above = loss()
            tensor -= 2 * step * direction
            below = loss()
            tensor += step * direction
            expected = ((above - below) / (2 * step)).item()
            assert (grad * direction).sum().item() == pytest.approx(expected, rel=2e-4, abs=2e-5), name
