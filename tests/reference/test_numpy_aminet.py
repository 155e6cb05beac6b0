"""The network against `numpy_aminet`, which was written from the equations and shares no code with it."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch

from aminet_fast import AMINet, AMINetConfig
from tests.reference import numpy_aminet as second

TOLERANCE = 1e-10  # of the largest value: both sides compute in float64
CONFIGS: dict[str, str | AMINetConfig] = {
    "nano": "aminet-nano",
    "tiny": AMINetConfig(width=4, heads=(1, 2, 2, 4), hourglass_width=5),
}
SIZES = [(2, 16, 16), (1, 32, 48), (1, 64, 32)]


def fill(model: AMINet, seed: int) -> AMINet:
    """Give every parameter and statistic a value of its own that keeps the features near unit size."""
    rng = np.random.RandomState(seed)
    for name, v in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            values = np.array(3)
        elif name.endswith("temperature"):
            values = rng.uniform(1, 6, v.shape)
        elif name.endswith("running_var") or (v.ndim == 1 and name.endswith("weight")):  # norms and PReLU
            values = rng.uniform(0.4, 1.6, v.shape)
        elif v.ndim == 1:
            values = 0.3 * rng.standard_normal(v.shape)
        else:
            values = rng.standard_normal(v.shape) / np.sqrt(v[0].numel())
        v.copy_(torch.from_numpy(values))
    return model


@pytest.fixture(params=["reference", "auto"], autouse=True)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test for the plain modules, and for what `AMINet` makes of them where it has kernels."""
    monkeypatch.setattr(sys.modules[__name__], "BACKEND", request.param)


BACKEND = "reference"


def build(config: str, training: bool, seed: int = 0) -> AMINet:
    return fill(AMINet(CONFIGS[config], BACKEND).double(), seed).train(training)


def arrays(module: torch.nn.Module) -> second.Params:
    """Copies: a training forward changes the module's own statistics."""
    return {k: v.numpy().copy() for k, v in module.state_dict().items()}


def features(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape))


def assert_same(ours: torch.Tensor, theirs: np.ndarray, what: str = "output") -> None:
    assert tuple(ours.shape) == theirs.shape
    error = np.abs(ours.numpy() - theirs).max() / np.abs(theirs).max()
    assert error < TOLERANCE, f"{what} differs by {error:.1e} of its largest value"


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("size", SIZES, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("config", CONFIGS)
@torch.no_grad()
def test_network(config: str, size: tuple[int, int, int], training: bool) -> None:
    n, h, w = size
    model = build(config, training)
    p = arrays(model)
    image = torch.from_numpy(np.random.RandomState(2).uniform(-1, 1, (n, 3, h, w)))
    assert_same(model(image), second.aminet(image.numpy(), p, training))
    # The running statistics are part of what training leaves behind.
    for name, after in model.state_dict().items():
        if "running" in name or "tracked" in name:
            assert_same(after, p[name], name)


@pytest.mark.parametrize("size", [(3, 5), (8, 6)])
@pytest.mark.parametrize("stage", [0, 1, 2])
@torch.no_grad()
def test_self_attention(stage: int, size: tuple[int, int]) -> None:
    module = build("nano", training=False).get_submodule(f"enc.{stage}.sa")
    y = features(2, 8 << stage, *size)
    assert_same(module(y), second.attention(y.numpy(), arrays(module)))


@pytest.mark.parametrize("size", [(3, 5), (8, 6)])
@torch.no_grad()
def test_skaf(size: tuple[int, int]) -> None:
    module = build("nano", training=False).get_submodule("mid.1.skaf")
    s = features(2, 64, *size)
    for ours, theirs in zip(module(s), second.skaf(s.numpy(), arrays(module)), strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize("stage", [0, 1, 2])
@torch.no_grad()
def test_edff(stage: int) -> None:
    module = build("nano", training=False).get_submodule(f"edff.{stage}")
    encoder, decoder = features(2, 32 >> stage, 5, 7), features(2, 32 >> stage, 5, 7, seed=4)
    assert_same(module(encoder, decoder), second.edff(encoder.numpy(), decoder.numpy(), arrays(module)))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("size", [(2, 2), (2, 6), (6, 4)])
@pytest.mark.parametrize(
    ("path", "function"),
    [("mid.0", second.lgfi), ("mid.0.rdfe", second.rdfe), ("mid.0.rdfe.frm.hourglass", second.hourglass)],
    ids=["lgfi", "rdfe", "hourglass"],
)
@torch.no_grad()
def test_module(
    path: str,
    function: Callable[[np.ndarray, second.Params, bool], np.ndarray],
    size: tuple[int, int],
    training: bool,
) -> None:
    # 2x2 and 2x6 leave the hourglass one pixel, or one row: nothing to reflect, so the border repeats it.
    module = build("tiny", training).get_submodule(path)
    x = features(2, 32, *size)
    p = arrays(module)
    assert_same(module(x), function(x.numpy(), p, training))
