"""The network's contenders: plain PyTorch, and ours by each family of kernels; a training step, and inference."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aminet_fast import AMINet, reference
from aminet_fast.ops import dispatch

from .. import memory, parity
from .clock import taking_turns
from .probe import clocks
from .run import Run

LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
TIMES_EAGER, FLOOR = 2.0, 1e-5  # of eager's error, as benchmarks/model.py has it
ROOM = 100 * 2**30  # bytes of a device that a float64 step of a whole batch fits in
HALF = torch.bfloat16


@dataclass(frozen=True)
class Contender:
    """kernels: "" is plain PyTorch; "auto" as dispatch.json says; "cuda" or "triton" wherever an operator has both."""

    kernels: str
    layout: str = "channels_last"

    def __str__(self) -> str:
        return f"ours-{self.kernels}" if self.kernels else f"eager-{self.layout}"


EAGER = tuple(Contender("", layout) for layout in LAYOUTS)
OURS = tuple(Contender(kernels) for kernels in ("auto", "cuda", "triton"))


def contenders(run: Run, ours: tuple[Contender, ...] = OURS) -> list[Contender]:
    """Those that this machine has; of the others it is noted why not."""
    from aminet_fast.ops._devices import compiled_problem

    problem = compiled_problem() if run.cuda else ""
    if problem:
        run.skip("the compiled kernels", problem)
    ours = ours[:2] if run.tiny else ours  # on a CPU all are the same
    return [*EAGER, *(c for c in ours if not problem or c.kernels != "cuda")]


@contextmanager
def served_by(kernels: str) -> Iterator[None]:
    """Meanwhile these kernels serve every operator that has both; "auto" and "" change nothing."""
    before = dispatch.choose
    if kernels in ("cuda", "triton"):
        dispatch.choose = lambda *_: kernels  # type: ignore[assignment]
    try:
        yield
    finally:
        dispatch.choose = before


def network(run: Run, contender: Contender) -> nn.Module:
    """In training mode, with the same weights for every contender."""
    torch.manual_seed(0)
    model = (AMINet if contender.kernels else reference.AMINet)(run.sizes.config())
    return model.to(run.device).to(memory_format=LAYOUTS[contender.layout])  # type: ignore[call-overload]


def images(run: Run, count: int, layout: str = "channels_last", seed: int = 1) -> Tensor:
    """[count, 3, side, side] in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(count, 3, run.sizes.side, run.sizes.side, generator=generator).mul(2).sub(1)
    return drawn.to(run.device).contiguous(memory_format=LAYOUTS[layout])


def autocast(run: Run, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    return nullcontext() if dtype is None else torch.autocast(run.device.type, dtype)


@contextmanager
def exact_products() -> Iterator[None]:
    """float32 products without TF32, eager's too."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def gradients(
    model: nn.Module, x: Tensor, target: Tensor, cast: AbstractContextManager[object]
) -> tuple[list[str], list[Tensor]]:
    """Names, and the gradients of the L1 loss."""
    with cast:
        loss = F.l1_loss(model(x).to(target.dtype), target)
    names, parameters = zip(*model.named_parameters(), strict=True)
    return list(names), list(torch.autograd.grad(loss, parameters))


def parity_of_the_step(run: Run) -> None:
    """All gradients of a step against float64 on the device, in bfloat16 and in float32; eager sets the scale."""
    roomy = not run.cuda or torch.cuda.get_device_properties(0).total_memory > ROOM
    count = run.sizes.batch if roomy else 2
    x, target = images(run, count, seed=1), images(run, count, seed=2)
    with exact_products():
        oracle = network(run, EAGER[0]).double()
        names, wanted = gradients(oracle, x.double(), target.double(), nullcontext())
        del oracle
        for dtype in (HALF, None):
            most = 0.0
            for contender in run.each(contenders(run), f"contenders' {'bfloat16' if dtype else 'float32'} gradients"):
                with noting(run, contender, "gradients"), served_by(contender.kernels):
                    model = network(run, contender)
                    given = x.contiguous(memory_format=LAYOUTS[contender.layout])
                    _, found = gradients(model, given, target, autocast(run, dtype))
                    error = parity.together(found, wanted)
                    if not contender.kernels:
                        most = max(most, TIMES_EAGER * error + FLOOR)
                    worst = sorted((parity.error(f, w), n) for n, f, w in zip(names, found, wanted, strict=True))[-5:]
                    about = {"contender": str(contender), "dtype": "bfloat16" if dtype else "float32", "images": count}
                    run.write("step parity", **about, error=error, most=most, right=error <= most, worst=worst[::-1])


def training_step(
    run: Run, model: nn.Module, x: Tensor, target: Tensor, optimizer: torch.optim.Optimizer
) -> Callable[[], None]:
    """Forward, L1, backward and Adam, in bfloat16 autocast."""

    def step() -> None:
        optimizer.zero_grad()
        with autocast(run, HALF):
            loss = F.l1_loss(model(x), target)
        loss.backward()
        optimizer.step()

    return step


def adam(model: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(model.parameters(), lr=2e-4, betas=(0.9, 0.99), fused=True)


def prepared(run: Run, contender: Contender) -> tuple[nn.Module, Callable[[], None]]:
    """A network and its step, which has run twice (a dry run's once)."""
    model = network(run, contender)
    x, target = (images(run, run.sizes.batch, contender.layout, seed) for seed in (1, 2))
    step = training_step(run, model, x, target, adam(model))

    def served() -> None:
        with served_by(contender.kernels):
            step()

    served()
    if not run.tiny:
        served()
    return model, served


def steps(run: Run) -> None:
    """Times of a training step: plain calls of all in turns, then CUDA graphs of all in turns; peak memory."""
    plain: dict[str, Callable[[], object]] = {}
    peaks: dict[str, dict[str, Any]] = {}
    for contender in run.each(contenders(run), "contenders' steps", reserve=10 if run.cuda else 1):
        with noting(run, contender, "plain"):
            model, step = prepared(run, contender)
            peaks[str(contender)] = memory.on_cuda(model, step) if run.cuda else {}
            plain[str(contender)] = step
    run.need_cuda("peak memory of a step")
    about = {"batch": run.sizes.batch, "dtype": "bfloat16", "what": "training step"}
    found = taking_turns(run, plain)
    for name, times in found.items():
        run.write("step", contender=name, mode="plain", **about, **times, **peaks[name])
    plain.clear()
    free(run)
    graphed: dict[str, Callable[[], object]] = {}
    best = min(EAGER, key=lambda c: found.get(str(c), {"ms": float("inf")})["ms"])
    for contender in run.each([*OURS, best], "graphs of a step", reserve=10 if run.cuda else 1):
        if str(contender) in found:
            with noting(run, contender, "graph"):
                graphed[str(contender)] = captured_step(run, contender)
    run.need_cuda("CUDA graphs of a step: graph_step ran it as it is")
    for name, times in taking_turns(run, graphed).items():
        run.write("step", contender=name, mode="graph", graphed=run.cuda, **about, **times)
    if run.cuda:
        run.write("clocks", after="steps", clocks=clocks())


def captured_step(run: Run, contender: Contender) -> Callable[[], object]:
    """The same step by graph_step."""
    from aminet_fast.graphs.training import graph_step

    model = network(run, contender)
    x, target = (images(run, run.sizes.batch, contender.layout, seed) for seed in (1, 2))
    with served_by(contender.kernels):
        call = graph_step(model, adam(model), F.l1_loss, [x, target], autocast=HALF)
        call(x, target)

    def replay() -> None:
        with served_by(contender.kernels):
            call(x, target)

    return replay


def inference(run: Run) -> None:
    """Weights in bfloat16, ours frozen: plain calls, and CUDA graphs."""
    for count in run.each(run.sizes.inference, "batches of inference"):
        plain: dict[str, Callable[[], object]] = {}
        graphed: dict[str, Callable[[], object]] = {}
        errors: dict[str, float] = {}
        x = images(run, count)
        with torch.no_grad():
            wanted = network(run, EAGER[0]).double().eval()(x.double())
        for contender in run.each(contenders(run), f"contenders of {count}"):
            with noting(run, contender, f"inference of {count}"), ExitStack() as stack:
                stack.enter_context(served_by(contender.kernels))
                call, replay, found = one_inference(run, contender, x)
                errors[str(contender)] = parity.error(found, wanted)
                plain[str(contender)], graphed[str(contender)] = call, replay
        most = TIMES_EAGER * max(errors.get(str(c), 0.0) for c in EAGER) + FLOOR
        for mode, group in (("plain", plain), ("graph", graphed)):
            for name, times in taking_turns(run, group).items():
                right = {"error": errors[name], "most": most, "right": errors[name] <= most}
                about = {"contender": name, "mode": mode, "batch": count, "dtype": "bfloat16", "what": "inference"}
                run.write("inference", **about, graphed=run.cuda and mode == "graph", **times, **right)
        free(run)
    run.need_cuda("CUDA graphs of inference: graph ran it as it is")


def one_inference(
    run: Run, contender: Contender, x: Tensor
) -> tuple[Callable[[], object], Callable[[], object], Tensor]:
    """A plain call, one by CUDA graphs, and the pictures."""
    from aminet_fast.graphs import graph
    from aminet_fast.network.freezing import freeze

    model = network(run, contender).to(HALF).eval()
    if contender.kernels:
        freeze(model)
    x = x.to(HALF).contiguous(memory_format=LAYOUTS[contender.layout])

    def call() -> Tensor:
        with served_by(contender.kernels), torch.no_grad():
            return model(x)

    found = call()
    runner = graph(model, x, batches=(len(x),), static_output=True)

    def replay() -> Tensor:
        with served_by(contender.kernels):  # where there are no graphs it calls the model
            return runner(x)

    replay()
    return call, replay, found


@contextmanager
def noting(run: Run, contender: Contender, what: str) -> Iterator[None]:
    """What goes wrong with one contender is a row; the others go on. An error of the device itself is raised."""
    try:
        yield
    except Exception as error:  # Triton's own have no other class in common
        if run.cuda:
            torch.cuda.synchronize()  # raises where the device is of no more use
        problem = f"{type(error).__name__}: {str(error)[:300]}"
        run.write("problem", contender=str(contender), what=what, problem=problem)


def free(run: Run) -> None:
    gc.collect()
    if run.cuda:
        with suppress(RuntimeError):
            torch.cuda.empty_cache()
