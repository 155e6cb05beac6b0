"""AMINet under torch.compile, AOTInductor and CUDA graphs, and twice the same bits; marked gpu where it needs one.

The same on the CPU keeps the tests honest where there is no GPU.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from aminet_fast import AMINet, get_config

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
GPU = pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])
SLOW_GPU = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.slow, NO_GPU])
SIDE = 32
# cuBLAS looks at it once, at its first call in a process; deterministic mode asks for it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    """No graphs of other tests, exact products, and afterwards as it was."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.compiler.reset()
    yield
    torch.compiler.reset()
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def trained(device: str) -> AMINet:
    torch.manual_seed(0)
    return AMINet(get_config("aminet-tiny")).to(device).to(memory_format=torch.channels_last)


def images(device: str, batch: int, seed: int = 1) -> Tensor:
    drawn = torch.rand(batch, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return drawn.to(device).contiguous(memory_format=torch.channels_last)


def step(model: torch.nn.Module, x: Tensor) -> list[Tensor]:
    """The picture, the gradients, the statistics of the norms."""
    model.zero_grad(set_to_none=True)
    y = model(x)
    (y - x).square().mean().backward()
    return [y.detach(), *(p.grad for p in model.parameters() if p.grad is not None), *model.buffers()]


@pytest.mark.parametrize("device", [pytest.param("cpu", marks=pytest.mark.gpuless), GPU])
def test_batches_of_any_size_take_two_graphs(device: str) -> None:
    """One for the first size, one for all others; forward and backward."""
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(trained(device), fullgraph=True, backend=counter)
    for batch in (2, 3, 5):
        step(compiled, images(device, batch))
    assert counter.frame_count == 2


@pytest.mark.parametrize("device", [pytest.param("cpu", marks=pytest.mark.slow), SLOW_GPU])
def test_aot_inductor(device: str, tmp_path: Path) -> None:
    """Exported for any batch, compiled ahead of time, loaded, and run with another batch than the example's."""
    model = trained(device).eval()
    with torch.no_grad():
        batch = torch.export.Dim("batch", min=1, max=64)
        program = torch.export.export(model, (images(device, 2),), dynamic_shapes=({0: batch},))
        package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "aminet.pt2"))
        loaded = torch._inductor.aoti_load_package(package)
        for size in (1, 3):
            x = images(device, size)
            torch.testing.assert_close(loaded(x), model(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_twice_the_same_bits(device: str) -> None:
    torch.use_deterministic_algorithms(True)
    model, x = trained(device), images(device, 3)
    one, other = step(copy.deepcopy(model), x), step(model, x)
    assert len(one) > 100
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.gpu
@NO_GPU
def test_a_training_step_in_a_cuda_graph() -> None:
    """Captured once, replayed with other pictures: nothing waits for the device or reads from the host."""
    model = trained("cuda")
    plain, x = copy.deepcopy(model), images("cuda", 4)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # kernels are compiled and tuned here
            step(model, x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(model, x)
    model.load_state_dict(plain.state_dict())
    for seed in (2, 3):
        x.copy_(images("cuda", 4, seed))
        graph.replay()
        wanted = step(plain, images("cuda", 4, seed))
        for one, other in zip(captured, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_on_a_gpu_that_is_not_the_current_one() -> None:
    model, x = trained("cuda:1"), images("cuda:1", 2)
    assert torch.cuda.current_device() == 0
    wanted = step(copy.deepcopy(model).to("cuda:0"), x.to("cuda:0"))
    for one, other in zip(step(model, x), wanted, strict=True):
        torch.testing.assert_close(one.cpu(), other.cpu(), rtol=1e-3, atol=1e-4)
