"""AMINet on CUDA devices without one: graphs captured on fake tensors, and a step through every Triton kernel there is.

Tracing runs the operators' fake kernels, and the routed step their Triton functions, whose launches are compiled.
"""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode

from aminet_fast import AMINet, get_config
from aminet_fast.ops import backends
from tests.harness.triton.case import operators

pytest.importorskip("triton", reason="Triton is not installed")


@pytest.fixture(autouse=True)
def _autocast_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.autocast("cuda") does nothing where there is no GPU, unless it is told otherwise."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)


@pytest.fixture(autouse=True)
def _auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AMINET_FAST_BACKEND", raising=False)
    monkeypatch.setattr(backends, "_logged", set())


@pytest.mark.parametrize("operator", backends.operators())
def test_auto_picks_them_on_cuda(operator: str) -> None:
    assert operator in operators()  # it has cases, and so is checked
    choice = backends.explain(operator, "cuda")
    assert choice.backend == "triton" or (choice.backend == "auto" and "triton" in choice.reason)  # with compiled ones


def image(batch: int = 2, side: int = 32) -> Tensor:
    return torch.empty(batch, 3, side, side, device="cuda").contiguous(memory_format=torch.channels_last)


def model_and_image() -> tuple[AMINet, Tensor]:
    """The paper's network and a batch of two, on the fake mode's cuda device."""
    with torch.device("cuda"):
        return AMINet(), image()


@pytest.mark.gpuless
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
def test_captures_for_cuda(training: bool, autocast: bool, caplog: pytest.LogCaptureFixture) -> None:
    """fullgraph, so that no operator breaks the graph; and none of those with kernels is plain PyTorch in it."""
    names: set[str] = set()

    def keep(graph: torch.fx.GraphModule, inputs: object) -> torch.fx.GraphModule:
        names.update(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph

    torch.compiler.reset()
    with FakeTensorMode(allow_non_fake_inputs=True), caplog.at_level(logging.WARNING, "aminet_fast"):
        model, x = model_and_image()
        model.train(training)
        compiled = torch.compile(model, fullgraph=True, backend=keep)
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast), torch.set_grad_enabled(training):
            y = compiled(x)
        assert y.shape == x.shape
        assert y.requires_grad == training
    torch.compiler.reset()
    used = {name for name in operators() if any(f"aminet_fast.{name}_fwd" in target for target in names)}
    assert used == set(operators()) - unused(training)
    assert not [record for record in caplog.records if "plain PyTorch" in record.message]


def unused(training: bool) -> set[str]:
    """Operators that this network does not use: one is an ablation's, one is training's."""
    return {"multiscale_dwconv"} | (set() if training else {"channel_moments"})


@pytest.mark.gpuless
def test_batches_of_any_size_take_two_graphs() -> None:
    """One for the first size, one for all others."""
    torch.compiler.reset()
    counter = CompileCounter()
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("cuda"):
            model = AMINet(get_config("aminet-tiny"))
        compiled = torch.compile(model, fullgraph=True, backend=counter)
        for batch in (2, 3, 5):
            assert compiled(image(batch)).shape[0] == batch
    torch.compiler.reset()
    assert counter.frame_count == 2


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.slow
def test_a_step_compiles_every_launch(training: bool, autocast: bool) -> None:
    """Forward, and in training backward, through the kernels of all operators that have some."""
    from tests.harness.triton.backward import gradients
    from tests.harness.triton.launches import compiled_launches
    from tests.harness.triton.routing import Routed

    with compiled_launches(90) as launches, FakeTensorMode(), Routed(fakes=True) as routed:
        model, x = model_and_image()
        model.train(training)
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast), torch.set_grad_enabled(training):
            y = model(x)
        if training:
            parameters = list(model.parameters())
            found = gradients([y], parameters, [torch.empty_like(y)])
            assert all(g is not None and g.shape == p.shape for g, p in zip(found, parameters, strict=True))
    ran = {name.removeprefix("aminet_fast::") for name in routed.ran}
    for operator in set(operators()) - unused(training):
        assert f"{operator}_fwd" in ran
        assert any(name.startswith(f"{operator}_bwd") for name in ran) == training
    assert launches
    problems = [problem for launch in launches for problem in launch.problems(one_block(), strict=False)]
    assert not problems, "\n".join(dict.fromkeys(problems))


def one_block() -> dict[str, str]:
    """The reasons that the operators' cases give."""
    from tests.harness.triton.case import cases_of

    return {kernel: why for name in operators() for case in cases_of(name) for kernel, why in case.one_block.items()}
