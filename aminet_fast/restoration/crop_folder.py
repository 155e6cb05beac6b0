"""A folder of crops and its list, faces.csv, which tells of every crop that is there."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..output.atomic import atomic_write

LIST = "faces.csv"
COLUMNS = ("file", "source", "number", "score", "eye_distance", "roll", "side", "left_out")

Row = dict[str, str]
Rows = dict[str, list[Row]]  # by source


def read_list(path: Path) -> Rows | None:
    """The rows of an earlier run, whole ones; None where there is no list. Raises ValueError for another file.

    Where a run was killed that did photographs anew, their older rows come first: the last ones hold.
    """
    if not path.exists():
        return None
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    rows = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
    if tuple(rows.fieldnames or ()) != COLUMNS:
        raise ValueError(f"{path} is there and no aminet align wrote it; choose another --out, or move it away")
    by_source: dict[str, dict[str, Row]] = {}
    for row in rows:
        if None in row or None in row.values():
            continue
        block, number = by_source.setdefault(row["source"], {}), row["number"]
        if not number or number in block or "" in block:  # no face, or counted from 1 again
            block.clear()
        block[number] = row
    return {source: list(block.values()) for source, block in by_source.items()}


class CropFolder:
    """Names of crops and the list of them. A photograph's new rows take the older ones' place once its crops are there.

    Args:
        path: the folder.
        rows: of the list as it was.
    """

    def __init__(self, path: Path, rows: Mapping[str, Sequence[Row]]) -> None:
        self.path = path
        self.rows = dict(rows)
        self._owner = {row["file"].casefold(): source for source in rows for row in rows[source] if row["file"]}
        self._stale = False  # the list has older rows of photographs that were done anew

    @contextmanager
    def listing(self) -> Iterator[None]:
        """Inside, `put` adds to the list; afterwards it has no older rows of what was done anew. Raises OSError."""
        self._write_list()
        try:
            yield
        except BaseException:
            if self._stale:
                with suppress(OSError):  # `read_list` leaves these rows out, too
                    self._write_list()
            raise
        if self._stale:
            self._write_list()

    def names_of(self, source: str, target: Path, numbers: Sequence[int | None]) -> list[str]:
        """NAME.png or NAME-NUMBER.png; where that is of another photograph, NAME-NUMBER-2.png, ...

        Args:
            source: the photograph.
            target: folder and NAME, with any ending.
            numbers: of the faces; None for the only one.
        """
        base = target.with_suffix("").relative_to(self.path).as_posix()
        names: list[str] = []
        for number in numbers:
            stem = base if number is None else f"{base}-{number}"
            name, more = f"{stem}.png", 1
            while self._owner.get(name.casefold(), source) != source or name in names:
                more += 1
                name = f"{stem}-{more}.png"
            names.append(name)
        return names

    def put(self, source: str, rows: Sequence[Row], made: Path) -> None:
        """Takes a photograph's crops out of the folder `made` and lists them, in the place of its older ones.

        Raises OSError when the file system refuses; the folder has no crop then that is not on the list.
        """
        names = [row["file"] for row in rows if row["file"]]
        older = {row["file"] for row in self.rows.get(source, ()) if self._is_crop(row["file"], source)}
        placed = []
        try:
            for name in names:
                (self.path / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(made / name, self.path / name)
                placed.append(name)
            for name in older.difference(names):
                (self.path / name).unlink(missing_ok=True)
            self._append(rows)
        except BaseException:
            for name in set(placed) - older:
                (self.path / name).unlink(missing_ok=True)
            raise
        for name in older:
            del self._owner[name.casefold()]
        self._owner |= {name.casefold(): source for name in names}
        self._stale |= source in self.rows
        self.rows[source] = list(rows)

    def _is_crop(self, name: str, source: str) -> bool:
        """Whether a list, that anybody may have written, names a file below the folder and of this photograph alone."""
        inside = not Path(name).is_absolute() and ".." not in Path(name).parts
        return name.endswith(".png") and inside and self._owner.get(name.casefold()) == source

    def _append(self, rows: Sequence[Row]) -> None:
        """All the rows, or none."""
        path = self.path / LIST
        size = path.stat().st_size
        try:
            with path.open("ab") as file:
                file.write(_as_csv(rows))
        except BaseException:
            os.truncate(path, size)
            raise

    def _write_list(self) -> None:
        header = dict(zip(COLUMNS, COLUMNS, strict=True))
        with atomic_write(self.path / LIST) as file:
            file.write(_as_csv([header, *(row for rows in self.rows.values() for row in rows)]))
        self._stale = False


def _as_csv(rows: Sequence[Row]) -> bytes:
    text = io.StringIO(newline="")
    csv.DictWriter(text, COLUMNS, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")
