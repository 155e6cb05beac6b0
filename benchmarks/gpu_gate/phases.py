"""The sections of each phase, most valuable first."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .run import Run

ROOT = Path(__file__).resolve().parents[2]
PACK_USED = "AMINET_GATE_PACK"  # for the sections: "1" where everything was compiled beforehand


@dataclass(frozen=True)
class Section:
    """place: "module:function" of this package. limit: seconds at most. keep_back: of the phase, for what follows."""

    name: str
    place: str
    limit: float
    keep_back: float = 0.0

    def function(self) -> Callable[[Run], None]:
        module, _, name = self.place.partition(":")
        return getattr(importlib.import_module(f"{__package__}.{module}"), name)


PROBE = Section("probe", "probe:probe", 40)
STEP = (
    Section("gradients", "network:parity_of_the_step", 60),
    Section("step", "network:steps", 90),
)
PHASES: dict[str, tuple[Section, ...]] = {
    "A": (
        PROBE,
        Section("build", "build:build", 150),
        Section("ceilings", "ceilings:ceilings", 15),
        *STEP,
        Section("profile", "profiles:profiles", 50),
        Section("inference", "network:inference", 50),
        Section("parity", "operators:parity_of_operators", 110, keep_back=30),
        Section("convolutions", "ceilings:convolutions", 30),
        Section("operators", "operators:times", 90),
    ),
    "B": (
        PROBE,
        Section("build", "build:build", 150),
        Section("compile", "compiling:compiled_step", 130, keep_back=60),
        Section("memcheck", "tools:memcheck", 45),
        Section("racecheck", "tools:racecheck", 45),
        Section("variants", "variants:variants", 50),
        Section("counters", "tools:counters", 70),
        Section("curve", "training:curve", 120),
    ),
    "C": (
        PROBE,
        Section("build", "build:build", 150),
        Section("training", "training:training", 3600),
    ),
}
WITHIN = {"A": 330.0, "B": 330.0, "C": 560.0}  # seconds of a phase


def chosen(phase: str, only: str | None) -> tuple[Section, ...]:
    """Those named, with the probe. SystemExit for a name that is no section's."""
    sections = PHASES[phase]
    if only is None:
        return sections
    wanted = {name.strip() for name in only.split(",")}
    if unknown := wanted - {section.name for section in sections}:
        names = ", ".join(section.name for section in sections)
        raise SystemExit(f"gpu-gate: phase {phase} has no section {', '.join(sorted(unknown))}; it has {names}")
    return tuple(section for section in sections if section is PROBE or section.name in wanted)
