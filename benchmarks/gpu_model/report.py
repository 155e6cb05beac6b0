"""What was estimated, as tables and as JSON."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from .costs import Estimate
from .launches import Launch

TOP = 20


@dataclass
class Row:
    launches: int = 0
    us: float = 0.0
    static: float = 0.0
    unknown: int = 0
    bounds: Counter[str] = field(default_factory=Counter)  # us by what bounds a launch

    def add(self, estimate: Estimate) -> None:
        self.launches += 1
        self.us += estimate.us
        self.static += estimate.static
        self.unknown += estimate.unknown
        self.bounds[estimate.bound] += estimate.us

    @property
    def bound(self) -> str:
        return self.bounds.most_common(1)[0][0]


def part_of_torch(launch: Launch) -> str:
    """A name for what no operator of the project does."""
    if not launch.on_images:
        return "torch, on vectors and weights"
    if launch.cast_bytes:
        return "torch, casts of images"
    if launch.name in ("add", "add_"):
        return "torch, additions of images"
    if launch.name.startswith("convolution"):
        return "torch, convolutions"
    return "torch, others on images"


def rows(launches: list[Launch], estimates: list[Estimate], key: Any) -> dict[str, Row]:
    found: dict[str, Row] = defaultdict(Row)
    for launch, estimate in zip(launches, estimates, strict=True):
        found[key(launch)].add(estimate)
    return dict(sorted(found.items(), key=lambda item: -item[1].us))


def by_operator(launch: Launch) -> str:
    return part_of_torch(launch) if launch.operator == "torch" else launch.operator


def by_kernel(launch: Launch) -> str:
    if launch.kind == "aten":
        return f"aten {launch.name}" + (" (images)" if launch.on_images else " (vectors)")
    return f"{launch.operator} {launch.name}" + (" (CUDA C++)" if launch.kind == "cuda" else "")


def by_size(launch: Launch) -> str:
    return f"{by_operator(launch)} {launch.size}".strip()


def by_kernel_and_size(launch: Launch) -> str:
    return f"{by_size(launch)} {launch.name}"


def counts(launches: list[Launch]) -> dict[str, int]:
    """What is counted exactly; bytes of image_cast_bytes are those read and written."""
    kinds = Counter(launch.kind for launch in launches)
    on_images = sum(launch.on_images for launch in launches if launch.kind == "aten")
    return {
        "launches": len(launches),
        "triton_launches": kinds["triton"],
        "cuda_launches": kinds["cuda"],
        "aten_launches": kinds["aten"],
        "aten_on_images": on_images,
        "aten_on_vectors": kinds["aten"] - on_images,
        "image_casts": sum(launch.cast_bytes > 0 for launch in launches),
        "image_cast_bytes": sum(launch.cast_bytes for launch in launches),
    }


def summary(launches: list[Launch], estimates: list[Estimate], floors: dict[str, float]) -> dict[str, Any]:
    """Everything, for JSON: us, bytes and counts."""
    bare = [n for n, estimate in zip(launches, estimates, strict=True) if estimate.bound == "not modelled"]

    def table(key: Any) -> dict[str, Any]:
        return {name: _row(row, floors.get(name)) for name, row in rows(launches, estimates, key).items()}

    unknown = {
        by_size(launch) + " " + launch.name: estimate.unknown
        for launch, estimate in zip(launches, estimates, strict=True)
        if estimate.unknown
    }
    return counts(launches) | {
        "estimated_ms": sum(e.us for e in estimates) / 1e3,
        "floor_ms": sum(floors.values()) / 1e3,
        "under_3_us": sum(e.us < 3 for e in estimates),
        "trip_counts_unknown": sum(unknown.values()),
        "unknown": unknown,
        "not_modelled_launches": len(bare),
        "not_modelled": sorted({by_kernel(launch) for launch in bare}),
        "operator_ms": {name: round(row.us / 1e3, 4) for name, row in rows(launches, estimates, by_operator).items()},
        "operators": table(by_operator),
        "kernels": table(by_kernel),
        "sizes": table(by_size),
        "sizes_and_kernels": table(by_kernel_and_size),
    }


def _row(row: Row, floor: float | None) -> dict[str, Any]:
    found = {"launches": row.launches, "us": round(row.us, 1), "static_us": round(row.static, 1), "bound": row.bound}
    return found | ({"floor_us": round(floor, 1)} if floor else {}) | ({"unknown": row.unknown} if row.unknown else {})


def details(found: dict[str, Any], operator: str) -> str:
    """One operator's kernels at each size, for people."""
    lines = [f"{'pass, size and kernel':84} {'launches':>8} {'us':>8} {'busiest unit':>13}  bound by"]
    total = 0.0
    for name, row in found["sizes_and_kernels"].items():
        if name.startswith(f"{operator}_"):
            total += row["us"]
            numbers = f"{row['launches']:8} {row['us']:8.1f} {row['static_us']:13.1f}  {row['bound']}"
            lines.append(f"{shortened(name.removeprefix(operator + '_'), 84):84} {numbers}")
    return "\n".join([*lines, f"{'together':84} {'':8} {total:8.1f}"])


def shortened(name: str, length: int) -> str:
    """Template arguments are the first that nobody misses."""
    return name if len(name) <= length else name[: length - 3] + "..."


def text(found: dict[str, Any]) -> str:
    """What a summary says, and of what call and versions it is, for people."""
    what = "training step" if found["mode"] == "train" else "inference"
    title = "{}, batch {batch}, {dtype}; torch {torch}, Triton {triton}".format(what, **found)
    estimated = f"estimated: {found['estimated_ms']:.1f} ms (+-30%); floors together: {found['floor_ms']:.1f} ms"
    if found["not_modelled"]:
        estimated += f"; too low: {found['not_modelled_launches']} launches are counted by their bytes alone"
    lines = [
        title,
        f"launches: {found['launches']} ({found['triton_launches']} Triton, {found['cuda_launches']} CUDA C++,"
        f" {found['aten_launches']} aten: {found['aten_on_images']} on images, {found['aten_on_vectors']} on vectors"
        f" and weights); under 3 us: {found['under_3_us']}",
        f"casts of images: {found['image_casts']} launches, {found['image_cast_bytes'] / 1e9:.3f} GB read and written",
        estimated,
        f"trip count unknown: {found['trip_counts_unknown']}",
        *(f"  {number} {name}" for name, number in found["unknown"].items()),
        f"not modelled: {', '.join(found['not_modelled']) or 'none'}",
        "",
        f"{'operator and pass':34} {'launches':>8} {'us':>8} {'floor us':>9}  bound by",
    ]
    for name, row in found["operators"].items():
        floor = f"{row['floor_us']:9.0f}" if "floor_us" in row else " " * 9
        lines.append(f"{name:34} {row['launches']:8} {row['us']:8.0f} {floor}  {row['bound']}")
    lines += ["", f"{'kernel':58} {'launches':>8} {'us':>8} {'busiest unit':>13}  bound by"]
    for name, row in list(found["kernels"].items())[:TOP]:
        numbers = f"{row['launches']:8} {row['us']:8.0f} {row['static_us']:13.0f}  {row['bound']}"
        lines.append(f"{shortened(name, 58):58} {numbers}")
    return "\n".join(lines)
