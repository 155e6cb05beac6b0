"""AMINet by `graph` and `graph_step` on a GPU, against the same network without graphs.

The shapes are those of test_gpu_compile.py, so that its Triton kernels are compiled already.
"""

from __future__ import annotations

import copy
import os

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from aminet_fast import AMINet, freeze, get_config, graph, graph_step
from tests.graphs.test_training import RATE, by_hand, everything, same

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
SIDE = 32
# cuBLAS looks at it once, at its first call in a process; deterministic mode asks for it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def images(count: int, seed: int = 1) -> Tensor:
    drawn = torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return drawn.cuda().contiguous(memory_format=torch.channels_last)


def network() -> AMINet:
    torch.manual_seed(0)
    return AMINet(get_config("aminet-tiny")).cuda().to(memory_format=torch.channels_last)


def seasoned() -> AMINet:
    """For inference, with running statistics that are not the defaults."""
    model = network()
    with torch.no_grad():
        model(images(4))
    return model.eval()


def wanted(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


@pytest.mark.gpu
@NO_GPU
@pytest.mark.parametrize("static", [False, True])
def test_inference(static: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Captured sizes, others, and too many; on another stream; after the weights changed; after they were replaced."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # which algorithm rounds how depends on the batch
    model = seasoned()
    example = images(4)
    runner = graph(model, example, batches=(1, 4), static_output=static)
    assert runner.graphed
    assert runner.memory() > 0
    tolerance = {"rtol": 1e-3, "atol": 1e-4}
    for count in (1, 3, 4) if static else (1, 3, 4, 9):
        x = images(count, seed=count)
        torch.testing.assert_close(runner(x), wanted(model, x), **tolerance)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)
    x, side = images(2, seed=5), torch.cuda.Stream()
    right = wanted(model, x)
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        y = runner(x).clone()
    torch.cuda.current_stream().wait_stream(side)
    torch.testing.assert_close(y, right, **tolerance)
    model.half()
    with pytest.raises(RuntimeError, match="call graph again"):
        runner(x)


@pytest.mark.gpu
@pytest.mark.slow
@NO_GPU
@pytest.mark.parametrize("autocast", [False, True])
def test_frozen_in_bfloat16(autocast: bool) -> None:
    model = seasoned() if autocast else seasoned().bfloat16()
    x = images(3).to(next(model.parameters()).dtype)
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        runner = graph(freeze(model), x)
        right = wanted(model, x)
    torch.testing.assert_close(runner(x), right, rtol=2e-2, atol=2e-2)


@pytest.mark.gpu
@NO_GPU
@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("autocast", [None, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
def test_a_training_step(autocast: torch.dtype | None, deterministic: bool) -> None:
    """Five steps, the rate halved before the fourth: with deterministic algorithms the very bits of the loop."""
    model, batches = network(), [(images(4, 2 * i), images(4, 2 * i + 1)) for i in range(5)]
    plain = copy.deepcopy(model)
    ours = Adam(model.parameters(), lr=RATE / 32, fused=True)
    theirs = Adam(plain.parameters(), lr=torch.tensor(RATE / 32, device="cuda"), fused=True, capturable=True)
    torch.use_deterministic_algorithms(deterministic)
    try:
        wanted = by_hand(plain, theirs, batches, autocast=autocast, rates={3: RATE / 64})
        step = graph_step(model, ours, F.mse_loss, batches[0], autocast=autocast)
        assert step.graphed
        assert step.memory() > 0
        found = []
        for i, batch in enumerate(batches):
            if i == 3:
                ours.param_groups[0]["lr"] = RATE / 64
            found.append(step(*batch).item())
    finally:
        torch.use_deterministic_algorithms(False)
    if deterministic:
        assert found == wanted
        same(everything(model, ours), everything(plain, theirs))
    else:
        assert found == pytest.approx(wanted, rel=1e-3 if autocast is None else 2e-2)
        assert all(int(b) == 5 for name, b in model.named_buffers() if name.endswith("num_batches_tracked"))
