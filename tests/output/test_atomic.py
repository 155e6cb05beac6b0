"""Files that belong together appear together."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aminet_fast.output.atomic import atomic_writes


def test_files_appear_in_their_order_when_all_are_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = tmp_path / "new" / "a.txt", tmp_path / "b.txt"
    done: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: [done.append("sync"), sync(handle)])
    monkeypatch.setattr(os, "replace", lambda old, new: [done.append(Path(new).name), replace(old, new)])
    with atomic_writes(b, a) as (second, first):
        first.write(b"one")
        second.write(b"two")
        assert not a.exists()
    assert done == ["sync", "sync", "b.txt", "a.txt"]
    assert (a.read_bytes(), b.read_bytes()) == (b"one", b"two")


def test_one_that_cannot_be_written_takes_the_others_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = tmp_path / "a.txt", tmp_path / "b.txt"
    a.write_text("older")

    def write() -> None:
        with atomic_writes(a, b) as (first, second):
            first.write(b"newer")
            second.write(b"newer")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), atomic_writes(a, tmp_path / "file" / "c.txt"):
        pytest.fail("there is no such folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "file"]
    assert a.read_text() == "older"


def test_a_folder_in_the_place_of_one_leaves_the_others(tmp_path: Path) -> None:
    a, folder = tmp_path / "a.txt", tmp_path / "b.txt"
    a.write_text("older")
    folder.mkdir()
    with pytest.raises(IsADirectoryError), atomic_writes(a, folder) as files:
        files[0].write(b"newer")
    assert a.read_text() == "older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt"]
