"""What a profile says: which part bounds the step, what would help, and the table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from ..output.console import print_table

ENOUGH = 1.5  # times what the network takes, that the loader should give: less, and every hiccup is felt
MUCH = 0.15  # of a step, from which on a part beside the network is what bounds it


@dataclass(frozen=True)
class Figures:
    """What was measured, in seconds and images a second.

    Args:
        parts: Median seconds a step of each part: "loader" (waited for), "copy", "forward", "backward", "optimizer"; of
            a captured step "copy" and "graph" in place of the four.
        issue: Seconds a step in which the CPU gave the GPU its work; 0 on the CPU.
        images: Faces a step.
        loader: Images a second of the loader alone, with as many processes as in training.
        workers: Loader processes.
        cores: Cores this process may use.
        validation: Seconds of one validation; None: there is none.
        checkpoint: Seconds of one checkpoint.
        val_every, checkpoint_every: Steps between them; 0: never, or by the clock alone.
        device: "cpu" or "cuda".
        memory: Share of the GPU's memory that the steps took; 0 on the CPU.
    """

    parts: dict[str, float]
    issue: float
    images: int
    loader: float
    workers: int
    cores: int
    validation: float | None
    checkpoint: float
    val_every: int
    checkpoint_every: int
    device: str
    memory: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)  # of the run: precision, cuda_graph, batch_size, accumulate

    @property
    def network(self) -> float:
        """Seconds a step without waiting for faces."""
        return sum(seconds for name, seconds in self.parts.items() if name != "loader")

    @property
    def model(self) -> float:
        """Images a second that the network takes."""
        return self.images / self.network

    @property
    def ratio(self) -> float:
        """How many times what the network takes the loader gives."""
        return self.loader / self.model

    def shares(self) -> dict[str, float]:
        """Seconds of every part, those between steps spread over the steps."""
        shares = dict(self.parts)
        if self.validation is not None and self.val_every:
            shares["validation"] = self.validation / self.val_every
        if self.checkpoint_every:
            shares["checkpoint"] = self.checkpoint / self.checkpoint_every
        return shares


def bound(figures: Figures) -> str:
    """What bounds the step: loader, validation, checkpoint, launches, or the network's largest part."""
    shares = figures.shares()
    whole = sum(shares.values())
    beside = {name: shares.get(name, 0.0) for name in ("loader", "validation", "checkpoint")}
    worst = max(beside, key=lambda name: beside[name])
    if beside[worst] > MUCH * whole:
        return worst
    # A CPU that is busy giving out work until the step ends has a GPU that waits for it.
    if figures.device == "cuda" and figures.issue > 0.9 * figures.network and "graph" not in figures.parts:
        return "launches"
    return max((name for name in figures.parts if name != "loader"), key=lambda name: figures.parts[name])


def verdict(figures: Figures) -> str:
    """One line."""
    what, shares = bound(figures), figures.shares()
    if what == "launches":
        return "launches bound the step: the GPU is done with each kernel before the CPU has given it the next"
    share = f"{shares[what] / sum(shares.values()):.0%} of the time"
    words = {
        "loader": f"the loader bounds the step: {share} goes by in waiting for faces",
        "validation": f"validation bounds the run: it takes {share}",
        "checkpoint": f"writing checkpoints bounds the run: it takes {share}",
    }
    return words.get(what, f"the network bounds the step: {what} takes {share}")


def advice(figures: Figures) -> list[str]:
    """What would make the run faster, the most useful first."""
    return list(_advice(figures, bound(figures)))


def _advice(figures: Figures, what: str) -> Iterator[str]:
    options = figures.options
    if figures.ratio < ENOUGH or what == "loader":
        one = figures.loader / max(1, figures.workers)
        wanted = min(figures.cores, math.ceil(ENOUGH * figures.model / one))
        if wanted > figures.workers:
            yield f"more loader processes: --workers {wanted}"
        else:
            yield f"more cores for the loader: {figures.workers} of its processes share {figures.cores}"
    if what == "validation":
        yield "validate less often (--val_every), or on fewer faces (--data.val_limit)"
    if what == "checkpoint":
        yield "write checkpoints less often (--checkpoint_every), or to a faster disk (--out)"
    captured = options.get("accumulate") == 1 and not options.get("compile") and not options.get("gan")
    if what == "launches" and captured:
        yield "the step as one graph: --cuda_graph"
    if options.get("precision") == "fp32" and what not in ("loader", "validation", "checkpoint"):
        yield "half the bytes: --precision bf16, where the processor has it"
    if figures.device == "cuda" and figures.memory < 0.45 and what not in ("loader", "validation", "checkpoint"):
        yield f"larger batches, for which there is memory: --batch_size {2 * options.get('batch_size', 1)}"


def to_json(figures: Figures) -> dict[str, Any]:
    """Plain values: the figures and what follows from them."""
    derived = {"model": figures.model, "ratio": figures.ratio, "seconds_a_step": figures.shares()}
    said = {"bound": bound(figures), "verdict": verdict(figures), "advice": advice(figures)}
    return {**asdict(figures), **derived, **said}


def show(figures: Figures, console: Console) -> None:
    shares = figures.shares()
    whole = sum(shares.values())
    table = Table("part", "ms a step", "share")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, seconds in shares.items():
        label = {"loader": "waiting for faces", "optimizer": "optimiser"}.get(name, name)
        table.add_row(label, f"{1e3 * seconds:.2f}", f"{seconds / whole:.1%}")
    table.add_section()
    table.add_row("all", f"{1e3 * whole:.2f}", f"{figures.images / whole:.1f} images/s")
    print_table(console, table)
    for text in (*_between(figures), _feeding(figures), f"{verdict(figures)}.", *_wishes(figures)):
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _between(figures: Figures) -> Iterator[str]:
    if figures.validation is not None and figures.val_every:
        yield f"one validation: {figures.validation:.2f} s, every {figures.val_every:,} steps"
    often = f", every {figures.checkpoint_every:,} steps" if figures.checkpoint_every else ""
    yield f"one checkpoint: {figures.checkpoint:.2f} s{often}"


def _feeding(figures: Figures) -> str:
    """The loader and the network beside each other."""
    processes = f"{figures.workers} process{'' if figures.workers == 1 else 'es'}" if figures.workers else "no process"
    return (
        f"the loader alone, with {processes} of its own: {figures.loader:,.0f} images/s; the network takes"
        f" {figures.model:,.1f}: the loader feeds {figures.ratio:.1f} x what the network takes"
    )


def _wishes(figures: Figures) -> Iterator[str]:
    for text in advice(figures):
        yield f"  to make it faster: {text}"
