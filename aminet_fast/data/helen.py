"""Helen as downloaded: whole photographs, and landmarks that say where the face is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .config import DataConfig, DataError
from .images import find_images
from .listing import Item, Listing, relative_name, rule_splits, split_items

EYE_DISTANCE = 0.3  # of the crop's side, CelebA's framing with a little more face
_EYES_194 = ((114, 134), (134, 154))
_EYES_68 = ((36, 42), (42, 48))

Box = tuple[float, float, float, float]


def list_helen(root: Path, config: DataConfig) -> Listing | None:
    """Photographs with annotation/*.txt (194 points, the picture's name first) or .pts files (68 points).

    The face is cut by the eyes' distance. testnames.txt names the test split when it is there; else folders
    train, test (trainset, testset) do, else the rule of any folder. Pictures without landmarks are left out.
    """
    by_path, by_stem, files = _boxes(root)
    if not files:
        return None
    items, skipped = [], 0
    for path in find_images(root):
        box = by_path.get(relative_name(path.with_suffix(""), root), by_stem.get(path.stem))
        if box is None:
            skipped += 1
        else:
            items.append(Item(relative_name(path, root), hr=path, box=box))
    if not items:
        raise DataError(f"{root} has Helen's landmarks but none of their pictures")
    doubts = [f"{skipped} pictures in {root} have no landmarks and were left out"] if skipped else []
    splits = _splits(root, items, doubts)
    return Listing("helen", str(root), splits, [f"{files} landmark files"], doubts)


def _splits(root: Path, items: list[Item], doubts: list[str]) -> dict[str, list[Item]]:
    names = root / "testnames.txt"
    if names.is_file():
        stems = {Path(line.strip()).stem for line in _lines(names) if line.strip()}
        if missing := len(stems - {Path(item.name).stem for item in items}):
            doubts.append(f"{missing} of the {len(stems)} test pictures that {names} lists are not in {root}")
        chosen = {True: [], False: []}  # type: dict[bool, list[Item]]
        for item in items:
            chosen[Path(item.name).stem in stems].append(item)
        return {**rule_splits(chosen[False], items), "test": chosen[True]}
    return split_items(root, items)


def _boxes(root: Path) -> tuple[dict[str, Box], dict[str, Box], int]:
    """The face's square by the picture's path under `root` without ending, by its stem, and how many there are.

    A .pts file lies beside its picture, or elsewhere as annotation/ does; a stem that two have names neither.
    """
    by_stem: dict[str, list[Box]] = {}
    by_path: dict[str, Box] = {}
    for path in sorted((root / "annotation").glob("*.txt")):
        lines = [line.strip() for line in _lines(path) if line.strip()]
        if len(lines) == 195:
            by_stem.setdefault(Path(lines[0]).stem, []).append(_box(_points(path, lines[1:]), _EYES_194))
    for path in sorted(root.rglob("*.pts")):
        rows = [line for line in _lines(path) if line.strip(" {}") and ":" not in line]
        if len(rows) == 68:
            box = _box(_points(path, rows), _EYES_68)
            by_path[relative_name(path.with_suffix(""), root)] = box
            by_stem.setdefault(path.stem, []).append(box)
    files = sum(len(boxes) for boxes in by_stem.values())
    return by_path, {stem: boxes[0] for stem, boxes in by_stem.items() if len(boxes) == 1}, files


def _lines(path: Path) -> list[str]:
    """Its lines; none of a folder, and nonsense of a file that has the ending alone and is no text."""
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []


def _points(path: Path, lines: Sequence[str]) -> list[tuple[float, float]]:
    try:
        return [(float(x), float(y)) for x, y in (line.replace(",", " ").split() for line in lines)]
    except ValueError as error:
        raise DataError(f"{path}: {error}; wanted one point, x and y, a line") from error


def _box(points: Sequence[tuple[float, float]], eyes: Sequence[tuple[int, int]]) -> Box:
    """The square whose side is the eyes' distance / EYE_DISTANCE, around a point below the eyes."""
    (ax, ay), (bx, by) = (
        (sum(x for x, _ in points[i:j]) / (j - i), sum(y for _, y in points[i:j]) / (j - i)) for i, j in eyes
    )
    distance = max(1.0, ((ax - bx) ** 2 + (ay - by) ** 2) ** 0.5)
    half = distance / EYE_DISTANCE / 2
    x, y = (ax + bx) / 2, (ay + by) / 2 + 0.2 * distance
    return x - half, y - half, x + half, y + half
