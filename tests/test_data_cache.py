"""The cache: once built it is used, damaged it is rebuilt, and it fails softly."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from bad_files import ramp

from aminet_fast.data import DataConfig, cache, faces, open_faces


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


def test_a_late_builder_keeps_the_finished_cache(config):
    items = faces.select(faces.list_faces(config), config, "all")
    store = open_faces(config, "all")
    before = entry(config).stat().st_ino
    folder = Path(config.cache) / "faces"
    cache.build_store(folder, store.fingerprint, lambda: faces._entries(items, config, "all"), 6)
    assert entry(config).stat().st_ino == before
