"""The cache: once built it is used, damaged it is rebuilt, and it fails softly."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from aminet_fast.data import DataConfig, cache, faces, images, open_faces
from tests.harness.bad_files import ramp


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    (tmp_path / "data").mkdir()
    for i in range(6):
        ramp().rotate(10 * i).save(tmp_path / "data" / f"{i}.png")
    return DataConfig(root=str(tmp_path / "data"), cache=str(tmp_path / "cache"))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that were decoded, in order."""
    names: list[str] = []
    decode = faces.decode

    def count(item, *rest):
        names.append(item.name)
        return decode(item, *rest)

    monkeypatch.setattr(faces, "decode", count)
    return names


def entry(config: DataConfig) -> Path:
    (folder,) = (Path(config.cache) / "faces").iterdir()
    return folder


def test_decodes_once(config, decoded):
    first = open_faces(config, "all")
    second = open_faces(config, "all")
    assert len(decoded) == 6
    assert first.fingerprint == second.fingerprint
    assert torch.equal(first[2]["hr"], second[2]["hr"])
    array = np.load(entry(config) / "hr.npy", mmap_mode="r")
    assert array.shape == (6, 128, 128, 3)
    assert array.dtype == np.uint8
    assert not array.flags.writeable
    assert sorted(p.name for p in entry(config).iterdir()) == ["hr.npy", "meta.json"]


def test_a_changed_file_or_setting_is_another_cache(config, decoded):
    before = open_faces(config, "all")
    path = Path(config.root) / "3.png"
    ramp().rotate(77).save(path)
    os.utime(path, ns=(1, 1))
    after = open_faces(config, "all")
    assert before.fingerprint != after.fingerprint
    assert not torch.equal(before[3]["hr"], after[3]["hr"])
    config.crop = 50
    open_faces(config, "all")
    assert len(decoded) == 18


def test_the_fingerprint_is_the_contents(config, decoded, tmp_path):
    """A resumed run asks for it: moved, copied or touched faces are the same faces."""
    before = open_faces(config, "all").fingerprint
    assert len(before) == 64
    shutil.copytree(config.root, tmp_path / "moved")
    os.utime(tmp_path / "moved" / "3.png", ns=(1, 1))
    config.root = str(tmp_path / "moved")
    assert open_faces(config, "all").fingerprint == before
    assert len(decoded) == 12
    (tmp_path / "file").write_text("in the way")
    assert open_faces(replace(config, cache=str(tmp_path / "file")), "all").fingerprint == before
    assert open_faces(replace(config, scale=4), "all").fingerprint != before
    assert open_faces(replace(config, limit=5), "all").fingerprint != before
    (tmp_path / "moved" / "3.png").rename(tmp_path / "moved" / "33.png")
    assert open_faces(config, "all").fingerprint != before


def test_a_cache_without_a_digest_is_built_again(config, decoded, caplog):
    before = open_faces(config, "all").fingerprint
    meta = json.loads((entry(config) / "meta.json").read_text())
    del meta["content"]
    (entry(config) / "meta.json").write_text(json.dumps(meta))
    with caplog.at_level(logging.WARNING):
        assert open_faces(config, "all").fingerprint == before
    assert "building it again" in caplog.text
    assert len(decoded) == 12


def test_a_file_that_may_be_read_again_is_looked_at_again(config, monkeypatch):
    """chmod changes neither the size nor the time of a file, and the skipped file must not stay skipped."""
    shut = str(Path(config.root) / "2.png")
    opened, access = images.Image.open, os.access

    def refuse(path, *rest, **options):
        if str(path) == shut:
            raise PermissionError(13, "Permission denied", shut)
        return opened(path, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(images.Image, "open", refuse)
        patch.setattr(os, "access", lambda path, mode: str(path) != shut and access(path, mode))
        assert open_faces(config, "all").bad == [("2.png", "may not be read (permission denied)")]
    assert open_faces(config, "all").bad == []


@pytest.mark.parametrize("damage", ["truncated", "flipped", "meta", "gone", "garbage"])
def test_damage_is_found_and_repaired(config, decoded, caplog, damage):
    good = open_faces(config, "all")[4]["hr"]
    file = entry(config) / ("meta.json" if damage in ("meta", "gone") else "hr.npy")
    data = file.read_bytes()
    if damage == "gone":
        file.unlink()
    elif damage == "flipped":
        file.write_bytes(data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])
    else:
        file.write_bytes({"truncated": data[: len(data) // 2], "meta": data[:-9], "garbage": b"garbage"}[damage])
    with caplog.at_level(logging.WARNING):
        again = open_faces(config, "all")
    assert "building it again" in caplog.text
    assert len(decoded) == 12
    assert torch.equal(again[4]["hr"], good)
    open_faces(config, "all")
    assert len(decoded) == 12


def test_many_blocks_are_checked(config, monkeypatch):
    monkeypatch.setattr(cache, "BLOCK", 2)
    open_faces(config, "all")
    assert len(json.loads((entry(config) / "meta.json").read_text())["crc"]["hr"]) == 3
    assert len(open_faces(config, "all")) == 6


def test_full_disk_falls_back_to_memory(config, monkeypatch, caplog):
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache.os, "fsync", full)
    with caplog.at_level(logging.WARNING):
        kept = open_faces(config, "all")
    assert "No space left on device" in caplog.text
    assert "keeping the faces in memory" in caplog.text
    assert list((Path(config.cache) / "faces").iterdir()) == []  # nothing half-written stays
    monkeypatch.undo()
    assert torch.equal(kept[5]["hr"], open_faces(config, "all")[5]["hr"])


def test_cache_folder_that_cannot_be_made(config, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    config.cache = str(tmp_path / "file")
    with caplog.at_level(logging.WARNING):
        assert len(open_faces(config, "all")) == 6
    assert "cannot write the face cache" in caplog.text


def test_too_much_for_memory_is_an_error(config, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    config.cache = str(tmp_path / "file")
    monkeypatch.setattr(cache, "MEMORY_LIMIT", 1000)
    with pytest.raises(OSError, match="set cache to a folder with room, or set limit"):
        open_faces(config, "all")


def test_processes_at_once(config):
    code = (
        "import sys; from aminet_fast.data import DataConfig, open_faces\n"
        "sys.stdin.readline()\n"
        "faces = open_faces(DataConfig(root=sys.argv[1], cache=sys.argv[2]), 'all')\n"
        "print(faces.store.part('hr').sum())"
    )
    run = [sys.executable, "-c", code, str(config.root), str(config.cache)]
    processes = [subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:  # all have imported what they need or are about to
        process.stdin.write("go\n")
        process.stdin.flush()
    sums = {process.communicate(timeout=100)[0] for process in processes}
    assert sums == {f"{open_faces(config, 'all').store.part('hr').sum()}\n"}
    assert len(list((Path(config.cache) / "faces").iterdir())) == 1


def test_two_repair_a_damaged_cache_at_once(config, monkeypatch, caplog):
    """The other one moves the damaged folder aside first."""
    open_faces(config, "all")
    (entry(config) / "meta.json").unlink()
    make = cache.tempfile.mkdtemp
    calls = []

    def other_first(**options):
        calls.append(1)
        if len(calls) == 2:  # the first makes room for the new cache, the second for the damaged one
            shutil.rmtree(entry_of_key)
        return make(**options)

    entry_of_key = entry(config)
    monkeypatch.setattr(cache.tempfile, "mkdtemp", other_first)
    assert len(open_faces(config, "all")) == 6
    assert len(calls) == 2
    assert "keeping the faces in memory" not in caplog.text
    assert entry(config) == entry_of_key


def test_leftovers_of_killed_builders_are_removed(config):
    folder = Path(config.cache) / "faces"
    for name, age in ((".0123456789ab-old", 3 * 86400), (".0123456789ab-new", 60), ("kept", 3 * 86400)):
        (folder / name).mkdir(parents=True)
        (folder / name / "hr.npy").write_bytes(b"half")
        os.utime(folder / name, (time.time() - age,) * 2)
    open_faces(config, "all")
    left = {path.name for path in folder.iterdir()}
    assert ".0123456789ab-old" not in left
    assert {".0123456789ab-new", "kept"} < left


def test_a_late_builder_keeps_the_finished_cache(config):
    items = faces.select(faces.list_faces(config), config, "all")
    store = open_faces(config, "all")
    before = entry(config).stat().st_ino
    folder = Path(config.cache) / "faces"
    built = cache.build_store(folder, entry(config).name, lambda: faces._entries(items, config, "all"), 6)
    assert built.meta == store.store.meta
    assert entry(config).stat().st_ino == before
