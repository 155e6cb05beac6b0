"""`graph_step` against loops written by hand: eager, by a stand-in for graphs, and in a graph where there is a GPU."""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW

from aminet_fast import graph_step
from aminet_fast.graphs.state import Snapshot
from tests.graphs.stand_in import StandIn, stand_in

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
# Eager on the CPU, graphs as tests/graphs/stand_in.py has them, and true ones.
PLACES = ["cpu", "stand-in", pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])]
RATE = 2**-7  # float32, as a rate on the device is, has it exactly


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return stand_in(monkeypatch, lambda run: torch.empty(()))


@pytest.fixture
def device(place: str, request: pytest.FixtureRequest) -> str:
    if place == "stand-in":
        request.getfixturevalue("recorder")
    return "cuda" if place == "cuda" else "cpu"


def small(device: str = "cpu", dropout: float = 0.3) -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Dropout(dropout), nn.PReLU(), nn.Conv2d(4, 3, 1)).to(device)


def pairs(count: int, device: str = "cpu") -> list[tuple[Tensor, Tensor]]:
    drawn = torch.Generator().manual_seed(1)
    return [
        (torch.randn(2, 3, 6, 6, generator=drawn).to(device), torch.randn(2, 3, 4, 4, generator=drawn).to(device))
        for _ in range(count)
    ]


def everything(model: nn.Module, optimizer: torch.optim.Optimizer, *more: nn.Module) -> list[Tensor]:
    """Parameters, buffers (num_batches_tracked too), and what Adam keeps, its counts of steps too."""
    modules = [model, *more]
    tensors = [t for m in modules for t in itertools.chain(m.parameters(), m.buffers())]
    kept = [value for parameter in model.parameters() for value in optimizer.state[parameter].values()]
    return [t.detach().clone().cpu() for t in (*tensors, *kept)]


def same(ours: list[Tensor], theirs: list[Tensor], tolerance: float = 0.0) -> None:
    assert len(ours) == len(theirs) >= 10
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def tolerance_on(device: str) -> float:
    """The eager loop's own convolutions may round otherwise on a GPU; a step changes weights by about RATE."""
    return RATE / 8 if device == "cuda" else 0.0


def average(model: nn.Module, ema: nn.Module) -> Callable[[], None]:
    def update() -> None:
        for mine, theirs in zip(ema.parameters(), model.parameters(), strict=True):
            mine.lerp_(theirs, 0.1)

    return update


def by_hand(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: list[tuple[Tensor, Tensor]],
    *,
    autocast: torch.dtype | None = None,
    max_norm: float | None = None,
    scaler: torch.amp.GradScaler | None = None,
    after: Callable[[], object] = lambda: None,
    rates: dict[int, float] | None = None,
) -> list[float]:
    """The losses of a loop as anybody would write it."""
    losses, rates = [], rates or {}
    for i, (x, y) in enumerate(batches):
        for group in optimizer.param_groups:
            rate = rates.get(i, group["lr"])
            group["lr"] = group["lr"].fill_(rate) if isinstance(group["lr"], Tensor) else rate
        optimizer.zero_grad()
        with torch.autocast(x.device.type, autocast, enabled=autocast is not None):
            loss = F.mse_loss(model(x), y)
        scaled = loss if scaler is None else scaler.scale(loss)
        scaled.backward()
        if scaler is not None:
            scaler.unscale_(optimizer)
        if max_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        with torch.no_grad():
            after()
        losses.append(loss.item())
    return losses


OPTIONS: list[dict[str, Any]] = [{}, {"autocast": torch.bfloat16}, {"max_norm": 0.05}]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_is_the_loop(options: dict[str, Any], place: str, device: str) -> None:
    """Same losses, weights, statistics, averages, Adam's state and random numbers; warm-ups left no trace."""
    model, batches = small(device), pairs(5, device)
    ema, plain = copy.deepcopy(model), copy.deepcopy(model)
    plain_ema = copy.deepcopy(model)
    ours, theirs = (AdamW(m.parameters(), lr=RATE, fused=True) for m in (model, plain))
    # A step that was taken before: its state is gone back to, where the other tests begin with none.
    for seeded, optimizer in ((model, ours), (plain, theirs)):
        torch.manual_seed(2)
        by_hand(seeded, optimizer, pairs(1, device))
    torch.manual_seed(3)
    wanted = by_hand(plain, theirs, batches, after=average(plain, plain_ema), **options)
    torch.manual_seed(3)
    hook = {"after_step": average(model, ema), "restored": ema.parameters()}
    step = graph_step(model, ours, F.mse_loss, pairs(1, device)[0], **hook, **options)  # type: ignore[arg-type]
    assert step.graphed == (place != "cpu")
    found = [step(*batch).item() for batch in batches]
    tolerance = tolerance_on(device)
    assert found == pytest.approx(wanted, rel=tolerance, abs=0)
    same(everything(model, ours, ema), everything(plain, theirs, plain_ema), tolerance)


@pytest.mark.parametrize("place", PLACES)
def test_rates_that_change(place: str, device: str) -> None:
    """Assigned to the group, as a number or a tensor, or by a scheduler."""
    model, batches = small(device, dropout=0), pairs(7, device)
    plain = copy.deepcopy(model)
    ours, theirs = (Adam(m.parameters(), lr=RATE, fused=True) for m in (model, plain))
    by_hand(plain, theirs, batches, rates={2: RATE / 4, 4: RATE / 2, 6: RATE / 16})
    scheduler = torch.optim.lr_scheduler.MultiStepLR(ours, [1], gamma=1 / 8)
    step = graph_step(model, ours, F.mse_loss, batches[0])
    for i, batch in enumerate(batches):
        if i in (2, 4):
            ours.param_groups[0]["lr"] = RATE / 4 if i == 2 else torch.tensor(RATE / 2)
        step(*batch)
        if i == 5:
            scheduler.step()
    same(everything(model, ours), everything(plain, theirs), tolerance_on(device) / 4)
    assert float(ours.param_groups[0]["lr"]) == RATE / 16


def test_the_loss_is_one_tensor(caplog: pytest.LogCaptureFixture) -> None:
    model, batches = small(dropout=0), pairs(2)
    with caplog.at_level(logging.WARNING, "aminet_fast"):
        step = graph_step(model, Adam(model.parameters()), F.mse_loss, batches[0])
    assert [r.message for r in caplog.records] == [
        "graph_step: cpu has no CUDA graphs; every call runs as plain PyTorch"
    ]
    first = step(*batches[0])
    value = first.item()
    assert step(*batches[1]) is first
    assert first.item() != value
    assert not first.requires_grad
    assert step.memory() == 0


def test_gradients_from_before_are_dropped(recorder: StandIn) -> None:
    """Those of parameters that the optimizer has not, too."""
    model, batches = small(dropout=0), pairs(3)
    plain = copy.deepcopy(model)
    F.mse_loss(model(batches[0][0]), batches[0][1]).backward()
    model.load_state_dict(plain.state_dict())
    ours, theirs = (Adam(m[0].parameters(), lr=RATE, fused=True) for m in (model, plain))  # type: ignore[index]
    step = graph_step(model, ours, F.mse_loss, batches[0])
    for x, y in batches:
        step(x, y)
        plain.zero_grad()
        F.mse_loss(plain(x), y).backward()
        theirs.step()
    for mine, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)
        torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=0)


def test_snapshot() -> None:
    """Everything is back where it lay: what was new began as zeros."""
    model, kept = small(dropout=0), pairs(4)
    optimizer = Adam(model.parameters(), lr=RATE, amsgrad=True)
    tensors = [*model.parameters(), *model.buffers()]
    fresh, before = Snapshot(tensors, optimizer), [t.detach().clone() for t in tensors]
    by_hand(model, optimizer, kept)
    later, after = Snapshot(tensors, optimizer), everything(model, optimizer)
    places = [t.data_ptr() for t in tensors]
    by_hand(model, optimizer, kept)
    assert not torch.equal(everything(model, optimizer)[0], after[0])
    later.restore()
    same(everything(model, optimizer), after)
    fresh.restore()
    same(list(tensors), before)
    assert all(not value.any() for state in optimizer.state.values() for value in state.values())
    assert [t.data_ptr() for t in tensors] == places


@pytest.mark.parametrize("place", PLACES)
def test_grad_scaler(place: str, device: str) -> None:
    """Its scale overflows, in the warm-ups too: such steps are skipped, in Adam's count too, and the scale falls."""
    model, batches = small(device, dropout=0), pairs(6, device)
    plain = copy.deepcopy(model)
    ours, theirs = (Adam(m.parameters(), lr=RATE, fused=True) for m in (model, plain))
    mine, other = (torch.amp.GradScaler(device, init_scale=2.0**20, growth_interval=2) for _ in range(2))
    options = {"autocast": torch.float16, "max_norm": 0.5}
    wanted = by_hand(plain, theirs, batches, scaler=other, **options)  # type: ignore[arg-type]
    step = graph_step(model, ours, F.mse_loss, batches[0], scaler=mine, **options)  # type: ignore[arg-type]
    tolerance = tolerance_on(device)
    assert [step(*batch).item() for batch in batches] == pytest.approx(wanted, rel=tolerance, abs=0)
    same(everything(model, ours), everything(plain, theirs), tolerance)
    assert mine.state_dict() == other.state_dict()
    assert float(next(iter(ours.state.values()))["step"]) < len(batches)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, o: o.load_state_dict(copy.deepcopy(o.state_dict())), "state was loaded since"),
        (lambda m, o: o.param_groups[0].update(betas=(0.5, 0.9)), "only lr may change"),
        (lambda m, o: o.add_param_group({"params": [nn.Parameter(torch.zeros(1))]}), "only lr may change"),
        (lambda m, o: m.double(), "0.weight of the model is another tensor"),
    ],
)
def test_what_a_graph_fixes(recorder: StandIn, change: Callable[[nn.Module, Adam], Any], message: str) -> None:
    model, batches = small(), pairs(1)
    optimizer = Adam(model.parameters(), fused=True)
    step = graph_step(model, optimizer, F.mse_loss, batches[0])
    step(*batches[0])
    change(model, optimizer)
    with pytest.raises(RuntimeError, match=message + ".*call graph_step again"):
        step(*batches[0])


def test_wrong_arguments() -> None:
    model, (x, y) = small(), pairs(1)[0]
    adam, fused = Adam(model.parameters()), Adam(model.parameters(), fused=True)
    scaler = torch.amp.GradScaler("cpu")
    for arguments, options, error, message in (
        (("m", adam, F.mse_loss, (x, y)), {}, TypeError, "model must be a torch.nn.Module, got str"),
        ((model, SGD(model.parameters()), F.mse_loss, (x, y)), {}, TypeError, "must be .*Adam or AdamW, got SGD"),
        ((model, adam, None, (x, y)), {}, TypeError, "loss_fn must be callable, got NoneType"),
        ((model, adam, F.mse_loss, x), {}, TypeError, "example_inputs must be a list of tensors, got float32"),
        ((model, adam, F.mse_loss, ()), {}, TypeError, "example_inputs must be a list of tensors, got tuple"),
        ((model, adam, F.mse_loss, (x, 1)), {}, TypeError, r"example_inputs\[1\] must be a tensor, got int"),
        ((model, adam, F.mse_loss, (x, y.to("meta"))), {}, ValueError, r"example_inputs\[1\] must be on cpu"),
        ((model, adam, F.mse_loss, (x, y)), {"autocast": torch.int8}, ValueError, "autocast must be .* got torch.int8"),
        ((model, fused, F.mse_loss, (x, y)), {"autocast": torch.float16}, ValueError, "pass a scaler, or bfloat16"),
        ((model, adam, F.mse_loss, (x, y)), {"scaler": scaler}, ValueError, "the optimizer must be fused=True"),
        ((model, adam, F.mse_loss, (x, y)), {"max_norm": 0}, ValueError, "max_norm must be above 0 or None, got 0"),
    ):
        with pytest.raises(error, match=f"graph_step: .*{message}"):
            graph_step(*arguments, **options)  # type: ignore[arg-type]


def test_wrong_inputs() -> None:
    model, (x, y) = small(), pairs(1)[0]
    step = graph_step(model, Adam(model.parameters()), F.mse_loss, (x, y))
    before = everything(model, Adam(model.parameters()))
    for inputs, error, message in (
        ((x,), TypeError, "takes 2 inputs, as the example, got 1"),
        ((x, 1), TypeError, r"input 1 must be float32 \[2, 3, 4, 4\] on cpu, got int"),
        ((x, y.double()), TypeError, r"input 1 must be float32 .* got float64"),
        ((x[:1], y[:1]), ValueError, r"input 0 must be float32 \[2, 3, 6, 6\] on cpu, got float32 \[1, 3, 6, 6\]"),
        ((x, y.to("meta")), ValueError, "input 1 must be .* on meta"),
    ):
        with pytest.raises(error, match=f"graph_step: .*{message}"):
            step(*inputs)  # type: ignore[arg-type]
    same(everything(model, Adam(model.parameters())), before)
