"""Faces from a file of the user's: points that another program found, or that somebody clicked.

JSON: a list of faces, an object with a list ``faces`` (what `aminet restore` writes beside each picture), or an object
of such lists by pictures' names. A face has ``points``, five [x, y]; ``box`` [left, top, right, bottom] and ``score``
may be left out.

CSV with a header: ``x1,y1,...,x5,y5``, and where there are several pictures ``file``; ``left,top,right,bottom`` and
``score`` may be left out.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from PIL import Image

from ..faces import Face, box_around, roll_of

_COORDINATES = [f"{axis}{n}" for n in range(1, 6) for axis in "xy"]
_BOX = ("left", "top", "right", "bottom")


class PointsFile:
    """A detector that reads what it finds. Raises ValueError, naming the file and the face, for anything else than
    above.

    Attributes:
        pictures: faces by the picture's name; under "" those of a file that names no picture.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            read = _from_csv if path.suffix.lower() == ".csv" else _from_json
            rows = read(path.read_text(encoding="utf-8-sig"))
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError, csv.Error) as error:
            raise ValueError(f"points {path} cannot be read ({error})") from error
        except ValueError as error:
            raise ValueError(f"points {path}: {error}") from error
        self.pictures: dict[str, list[Face]] = {}
        for name, listed in rows.items():
            self.pictures[name] = [self._face(row, name, n) for n, row in enumerate(listed, 1)]

    def __call__(self, image: Image.Image) -> list[Face]:
        """The faces of a file of one picture. Raises ValueError for a file of several; `of` takes the name."""
        if len(self.pictures) > 1:
            raise ValueError(f"points {self.path} are of {len(self.pictures)} pictures; say which: of(name)")
        return next(iter(self.pictures.values()), [])

    def of(self, name: str) -> list[Face]:
        """The faces of the picture of that name, or of the only one in a file that names none; [] where it has none."""
        return self.pictures.get(name, self.pictures.get(Path(name).name, self.pictures.get("", [])))

    def refuse_several(self, count: int) -> None:
        """Raises ValueError where a file that names no picture is to serve for more than one."""
        if set(self.pictures) == {""} and count > 1:
            raise ValueError(f"points {self.path} are of one photograph, and there are {count}; name one")

    def _face(self, row: Any, name: str, number: int) -> Face:
        try:
            points = tuple((float(x), float(y)) for x, y in row["points"])
            if len(points) != 5:
                raise ValueError(f"{len(points)} points, wanted 5")
            places = [complex(*point) for point in points]
            box = tuple(float(value) for value in row["box"]) if row.get("box") is not None else box_around(places)
            score = row.get("score")
            return Face(box, 1.0 if score is None else float(score), points, roll_of(places))  # type: ignore[arg-type]
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
            where = f" of {name}" if name else ""
            what = f"there is no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"points {self.path}: face {number}{where} is no face: {what}") from error


def _from_json(text: str) -> dict[str, list[Any]]:
    values = json.loads(text)
    if isinstance(values, list):
        return {"": values}
    if isinstance(values, dict) and isinstance(values.get("faces"), list):
        return {"": values["faces"]}
    if isinstance(values, dict) and values and all(isinstance(value, list) for value in values.values()):
        return values
    raise ValueError('wanted a list of faces, {"faces": [...]}, or {"NAME": [...], ...}')


def _from_csv(text: str) -> dict[str, list[Any]]:
    rows = csv.DictReader(text.splitlines())
    header = rows.fieldnames or []
    if missing := [name for name in _COORDINATES if name not in header]:
        raise ValueError(f"there is no column {', '.join(missing)}; wanted x1,y1,...,x5,y5")
    found: dict[str, list[Any]] = {}
    for row in rows:
        face: dict[str, Any] = {"points": [(row[f"x{n}"], row[f"y{n}"]) for n in range(1, 6)]}
        if all(row.get(name) for name in _BOX):
            face["box"] = [row[name] for name in _BOX]
        face["score"] = row.get("score") or None
        found.setdefault(row.get("file") or "", []).append(face)
    return found
