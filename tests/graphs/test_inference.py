"""`graph`: padding, cutting, layouts and errors by a stand-in for graphs (test_gpu_graphs.py has true ones)."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from aminet_fast import AMINet, Expects, freeze, get_config, graph, upscale_images
from aminet_fast.evaluate import evaluate_model
from aminet_fast.graphs.inference import cut
from aminet_fast.graphs.state import Addresses
from aminet_fast.network.expects import expects_of
from aminet_fast.network.inference import restore
from aminet_fast.network.packed import Packed
from tests.graphs.stand_in import StandIn, stand_in


class Small(nn.Module):
    """Three channels to three, and the sizes of the batches that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.seen = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((len(x), self.training, torch.is_grad_enabled()))
        return self.norm(self.conv(x))


def images(count: int, seed: int = 1, side: int = 4) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def small() -> Small:
    torch.manual_seed(0)
    small = Small()
    small(images(4))  # moves the running statistics off their defaults
    small.seen.clear()
    return small.eval()


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return stand_in(monkeypatch, lambda run: run())


def wanted(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(model).eval()(x)


@pytest.mark.parametrize(
    ("count", "batches", "pieces"),
    [
        (1, (1, 2, 4), [(0, 1, 1)]),
        (3, (1, 2, 4), [(0, 3, 4)]),
        (5, (1, 2, 4), [(0, 4, 4), (4, 1, 1)]),
        (8, (1, 2, 4), [(0, 4, 4), (4, 4, 4)]),
        (7, (3,), [(0, 3, 3), (3, 3, 3), (6, 1, 3)]),
    ],
)
def test_pieces(count: int, batches: tuple[int, ...], pieces: list[tuple[int, int, int]]) -> None:
    assert cut(count, batches) == pieces


def test_sizes(small: Small, recorder: StandIn) -> None:
    assert graph(small, images(6)).batches == (1, 2, 4, 6)
    assert graph(small, images(1)).batches == (1,)
    before = recorder.captures
    assert graph(small, images(6), batches=[8, 2, 2]).batches == (2, 8)
    assert recorder.captures == before + 2


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_any_number_of_images(small: Small, recorder: StandIn, layout: torch.memory_format) -> None:
    runner = graph(small, images(4).to(memory_format=layout))
    assert runner.graphed
    assert runner.memory() == 1
    found = []
    for count in (4, 3, 1, 2, 9):
        small.seen.clear()
        x = images(count, seed=count)
        found.append((runner(x), wanted(small, x)))
        assert [size for size, *_ in small.seen] == [size for _, _, size in cut(count, runner.batches)]
        assert found[-1][0].is_contiguous(memory_format=layout)
    for y, right in found:  # the first ones too, after the last call
        torch.testing.assert_close(y, right)


def test_modes(small: Small, recorder: StandIn) -> None:
    """Captured as for inference, whatever the caller's modes are; they stay."""
    x = images(2).requires_grad_()
    with torch.enable_grad():
        runner = graph(small.train(), x)
        assert small.seen
        assert all(seen[1:] == (False, False) for seen in small.seen)
        assert small.training
        assert small.norm.num_batches_tracked == 1  # the fixture's
        assert not runner(x).requires_grad
    with torch.inference_mode():
        inside = graph(small.eval(), images(2))
    torch.testing.assert_close(inside(images(1)), wanted(small, images(1)))


@pytest.mark.parametrize("static", [False, True])
def test_what_runs_a_network_runs_its_graphs(small: Small, recorder: StandIn, static: bool) -> None:
    """At their largest batch: of an ensemble, the second half overwrites the first in a static output."""
    small.expects = Expects(scale=2)
    runner = graph(small, images(2, side=16), static_output=static)
    assert (expects_of(runner), runner.model) == (small.expects, small)
    x = images(2, side=13)
    with torch.no_grad():
        torch.testing.assert_close(restore(runner, x, ensemble="flip"), restore(small, x, ensemble="flip"))
    pictures = [Image.new("RGB", (8, 8), (80 * i, 90, 200 - 80 * i)) for i in range(3)]
    for ensemble in ("none", "flip"):
        found = upscale_images(runner, pictures, batch_size=2, ensemble=ensemble)
        wanted = upscale_images(small, pictures, ensemble=ensemble)
        assert [y.tobytes() for y in found] == [y.tobytes() for y in wanted]
    faces: Any = [{"input": x, "hr": -x, "name": "a"} for x in images(4, side=16)]
    scores = [evaluate_model(model, faces, batch_size=2, ensemble="flip").ours.psnr for model in (runner, small)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)


def test_static_output(small: Small, recorder: StandIn) -> None:
    runner = graph(small, images(4), static_output=True)
    first = runner(images(3, seed=1))
    assert first.shape == (3, 3, 4, 4)
    second = runner(images(4, seed=2))
    assert second.data_ptr() == first.data_ptr()
    torch.testing.assert_close(first, wanted(small, images(4, seed=2))[:3])
    with pytest.raises(ValueError, match=r"x must have 4 images at most, got float32 \[5, 3, 4, 4\]"):
        runner(images(5))


def test_on_a_device_without_graphs(small: Small, caplog: pytest.LogCaptureFixture) -> None:
    small.train()
    with caplog.at_level(logging.WARNING, "aminet_fast"):
        runner = graph(small, images(4))
        for count in (1, 3, 9):
            torch.testing.assert_close(runner(images(count)), wanted(small, images(count)))
    assert [record.message for record in caplog.records] == [
        "graph: cpu has no CUDA graphs; every call runs as plain PyTorch"
    ]
    assert small.seen == [(n, False, False) for n in (1, 3, 4, 4, 1)]
    assert not runner.graphed
    assert runner.memory() == 0
    assert small.training


@pytest.mark.parametrize("graphed", [False, True])
def test_autocast_of_the_moment(small: Small, graphed: bool, request: pytest.FixtureRequest) -> None:
    if graphed:
        request.getfixturevalue("recorder")
    with torch.autocast("cpu", torch.bfloat16):
        runner, x = graph(small, images(2)), images(2, seed=3)
        right = wanted(small, x)
    assert runner(x).dtype == right.dtype == torch.bfloat16
    torch.testing.assert_close(runner(x), right, rtol=0, atol=0)
    plain = graph(small, images(2))
    with torch.autocast("cpu", torch.bfloat16):
        assert plain(x).dtype == torch.float32


def test_weights_that_change(small: Small, recorder: StandIn) -> None:
    runner, x = graph(small, images(2)), images(2)
    state = {key: value * 2 for key, value in small.state_dict().items()}
    small.load_state_dict(state)
    torch.testing.assert_close(runner(x), wanted(small, x))


@pytest.mark.parametrize(
    ("replace", "name"),
    [
        (lambda m: m.double(), "conv.weight"),
        (lambda m: setattr(m.conv, "bias", nn.Parameter(torch.zeros(3))), "conv.bias"),
        (lambda m: m.load_state_dict({k: v.clone() for k, v in m.state_dict().items()}, assign=True), "conv.weight"),
        (lambda m: setattr(m.norm, "running_mean", torch.zeros(3)), "norm.running_mean"),
    ],
)
def test_weights_that_are_replaced(
    small: Small, recorder: StandIn, replace: Callable[[nn.Module], Any], name: str
) -> None:
    runner = graph(small, images(2))
    runner(images(2))
    addresses = Addresses(small)
    addresses.check("graph")
    replace(small)
    with pytest.raises(RuntimeError, match=f"graph: {name} of the model is another tensor .* call graph again"):
        addresses.check("graph")
    small.float()  # else the stand-in could not run it
    with pytest.raises(RuntimeError, match="call graph again"):
        runner(images(2))


def test_what_freeze_keeps_is_watched() -> None:
    torch.manual_seed(0)
    model = freeze(AMINet(get_config("aminet-nano")))
    kept = [
        (module, key)
        for module in model.modules()
        for key, value in module.__dict__.items()
        if isinstance(value, Tensor | Packed)
    ]
    assert kept
    addresses = Addresses(model)
    for module, key in kept:
        value = module.__dict__.pop(key)
        with pytest.raises(RuntimeError, match=f"{key} of the model is another tensor"):
            addresses.check("graph")
        module.__dict__[key] = value
    addresses.check("graph")
    with torch.no_grad():
        model.enc[0].skaf.convs[0].weight.mul_(2)  # the graph reads what was made of it, not the weight
    with pytest.raises(RuntimeError, match=r"enc\.0\.packed of the model is another tensor.*call graph again"):
        addresses.check("graph")
    addresses = Addresses(freeze(model))
    addresses.check("graph")
    freeze(model)
    with pytest.raises(RuntimeError, match="call graph again"):
        addresses.check("graph")


@pytest.mark.parametrize("graphed", [False, True])
def test_no_images(small: Small, graphed: bool, request: pytest.FixtureRequest) -> None:
    if graphed:
        request.getfixturevalue("recorder")
    runner = graph(small, images(2))
    found = runner(images(2)[:0])
    assert (found.shape, found.dtype) == (small(images(2))[:0].shape, torch.float32)


def test_graphs_are_not_copied(small: Small) -> None:
    runner = graph(small, images(2))
    for way in (copy.deepcopy, copy.copy, pickle.dumps):
        with pytest.raises(TypeError, match="neither copied nor pickled; do it with the model, call graph again"):
            way(runner)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ([1], TypeError, "x must be a float32 tensor, as the example was, got list"),
        (images(2).double(), TypeError, r"x must be a float32 tensor.*got float64 \[2, 3, 4, 4\] on cpu"),
        (images(2, side=8), ValueError, r"x must be \[N, 3, 4, 4\], as the example.*got float32 \[2, 3, 8, 8\]"),
        (images(2)[0], ValueError, r"x must be \[N, 3, 4, 4\]"),
        (images(2).to("meta"), ValueError, r"x must be on cpu, as the example was, got .* on meta"),
    ],
)
@pytest.mark.parametrize("graphed", [False, True])
def test_wrong_inputs(
    small: Small, graphed: bool, x: Any, error: type, message: str, request: pytest.FixtureRequest
) -> None:
    if graphed:
        request.getfixturevalue("recorder")
    runner = graph(small, images(2))
    small.seen.clear()
    with pytest.raises(error, match=message):
        runner(x)
    assert not small.seen


def test_wrong_arguments(small: Small, recorder: StandIn) -> None:
    for arguments, error, message in (
        (("small", images(1)), TypeError, "model must be a torch.nn.Module, got str"),
        ((small, [1]), TypeError, "example must be a floating point tensor, got list"),
        ((small, images(1).int()), TypeError, "example must be a floating point tensor, got int32"),
        ((small, images(1)[:0]), ValueError, "every size at least 1"),
        ((small, images(1).to("meta")), ValueError, "example must be on the model's device cpu, got .* on meta"),
        ((nn.BatchNorm2d(3, track_running_stats=False), images(1)), ValueError, "normalises by its batch"),
        ((nn.Flatten(0), images(1)), TypeError, r"one tensor with a row for each of x's, got float32 \[48\]"),
    ):
        with pytest.raises(error, match=message):
            graph(*arguments)  # type: ignore[arg-type]
    for batches in ([], [0, 2], [1.5]):
        with pytest.raises(ValueError, match="batches must be one or more whole numbers from 1 up"):
            graph(small, images(1), batches=batches)  # type: ignore[arg-type]
