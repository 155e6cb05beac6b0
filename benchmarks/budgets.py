"""The ratios that a version must reach, as data; benchmarks.report holds results against them."""

from __future__ import annotations

from dataclasses import dataclass

from .cases import BACKWARD, BOTH, INFERENCE, STEP

EAGER, COMPILED, COPY, MEMORY = "eager", "compiled", "copy", "memory"


@dataclass(frozen=True)
class Bound:
    """`against` eager or compiled: at least `value` times as fast; copy: that part of copy bandwidth at least;
    memory: at most that part of eager's peak."""

    against: str
    value: float


@dataclass(frozen=True)
class Budget:
    """One row of the table, for the sum over the cases at all of the network's sizes, weighted by uses in a step."""

    name: str
    cases: tuple[str, ...]
    what: str
    batch: int
    dtype: str
    bounds: tuple[Bound, ...]
    ours: tuple[str, ...] = ("ours",)  # the faster of these contenders counts

    @property
    def of_model(self) -> bool:
        return self.cases == ("model",)


DTYPE = {"cpu": "float32", "cuda": "bfloat16"}
OPERATOR_BATCH = {"cpu": 4, "cuda": 32}
STEP_BATCH = {"cpu": 4, "cuda": 32}
INFERENCE_BATCH = (1, 8)
# How often a step uses an operator at each of the network's four sizes; EDFF has SKAF too.
USES_OF_LGFI = (2, 2, 2, 2)
USES = {"skaf_descriptor": (3, 3, 3, 2), "skaf_gate": (3, 3, 3, 2)}
OURS_MAY_COMPILE = ("ours", "ours+compiled")

# name, cases, what, {device type: bounds}
_TABLE: tuple[tuple[str, tuple[str, ...], str, dict[str, tuple[Bound, ...]]], ...] = (
    (
        "multiscale_dwconv fwd+bwd",
        ("multiscale_dwconv", "multiscale_dwconv_branches"),
        BOTH,
        {"cpu": (Bound(EAGER, 2.5),), "cuda": (Bound(EAGER, 4), Bound(COMPILED, 2), Bound(COPY, 0.6))},
    ),
    (
        "rdfe_front fwd+bwd",
        ("rdfe_front",),
        BOTH,
        {"cpu": (Bound(EAGER, 2.5),), "cuda": (Bound(EAGER, 4), Bound(COMPILED, 2))},
    ),
    (
        "skaf_descriptor bwd",
        ("skaf_descriptor",),
        BACKWARD,
        {"cpu": (Bound(EAGER, 4),), "cuda": (Bound(EAGER, 6),)},
    ),
    (
        "skaf_descriptor fwd+bwd",
        ("skaf_descriptor",),
        BOTH,
        {"cpu": (Bound(EAGER, 2),), "cuda": (Bound(EAGER, 3),)},
    ),
    (
        "skaf_gate fwd+bwd",
        ("skaf_gate",),
        BOTH,
        {"cpu": (Bound(EAGER, 2),), "cuda": (Bound(EAGER, 3), Bound(COPY, 0.75))},
    ),
    (
        "channel_attention fwd+bwd",
        ("channel_attention",),
        BOTH,
        {"cpu": (Bound(EAGER, 1.8),), "cuda": (Bound(EAGER, 3), Bound(COMPILED, 1.5))},
    ),
)


def budgets(device: str) -> list[Budget]:
    """The column of "cpu" or "cuda"."""
    dtype, rows = DTYPE[device], []
    for name, cases, what, bounds in _TABLE:
        rows.append(Budget(name, cases, what, OPERATOR_BATCH[device], dtype, bounds[device]))
    step, inference, memory = {
        "cpu": ((1.8, 1.8), (1.6, 1.3), 0.6),
        "cuda": ((3.0, 1.7), (5.0, 1.3), 0.5),
    }[device]

    def model(name: str, what: str, batch: int, bounds: tuple[Bound, ...], ours: tuple[str, ...]) -> Budget:
        return Budget(name, ("model",), what, batch, dtype, bounds, ours)

    def speeds(pair: tuple[float, float]) -> tuple[Bound, ...]:
        return Bound(EAGER, pair[0]), Bound(COMPILED, pair[1])

    batch = STEP_BATCH[device]
    rows.append(model("AMINet training step", STEP, batch, speeds(step), ("ours",)))
    rows.append(model("AMINet inference, batch 1", INFERENCE, 1, speeds(inference), OURS_MAY_COMPILE))
    rows.append(model("peak memory of a training step", STEP, batch, (Bound(MEMORY, memory),), ("ours",)))
    return rows
