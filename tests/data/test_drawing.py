"""Drawn faces: what is drawn, and that processes draw the same as this one, or leave it to this one."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from aminet_fast.data import DataConfig, degrade, draw_face, faces, open_faces, to_tensor
from aminet_fast.data.drawn import processes
from aminet_fast.data.sources import list_drawn

SEEDS = [(seed, 32) for seed in range(12)]


def drawn(count: int) -> list[bytes]:
    with processes.drawing(count) as draw, ThreadPoolExecutor(3) as pool:
        return [face.tobytes() for face in pool.map(lambda job: draw(*job), SEEDS)]


@pytest.fixture
def here() -> list[bytes]:
    return [draw_face(*job).tobytes() for job in SEEDS]


def test_drawn_faces(tmp_path):
    config = DataConfig(drawn=8, cache=str(tmp_path))
    train = open_faces(config)
    assert len(train) == 8
    assert len(open_faces(config, "val")) == 64
    assert train.names[3] == "drawn_train_00003.png"
    assert torch.equal(train[3]["hr"], to_tensor(draw_face(3)))
    drawn_faces = [draw_face(seed).tobytes() for seed in range(24)]
    assert len(set(drawn_faces)) == 24
    assert drawn_faces[:4] == [draw_face(seed).tobytes() for seed in range(4)]
    assert draw_face(5, size=64).size == (64, 64)
    with pytest.raises(ValueError, match="seed >= 0"):
        draw_face(-1)


def test_drawn_splits_never_meet():
    seeds = [
        {item.seed for item in part}
        for config in (DataConfig(), DataConfig(seed=1))
        for split, part in list_drawn(config).splits.items()
        if split != "all"
    ]
    assert sum(map(len, seeds)) == len(set().union(*seeds)) == 2 * (4096 + 256 + 256)


def test_drawn_faces_have_detail_that_bicubic_loses():
    errors = []
    for seed in range(16):
        hr = draw_face(seed)
        up = degrade(hr)[1]
        errors.append(np.mean((np.asarray(hr, float) - np.asarray(up, float)) ** 2))
    assert 18 < np.mean(10 * np.log10(255**2 / np.array(errors))) < 26  # real faces: about 23.6 dB


def test_processes_draw_the_same_and_end(here, monkeypatch):
    started = []
    start = processes._start
    monkeypatch.setattr(processes, "_start", lambda count: started.extend(start(count)) or started)
    monkeypatch.setattr(processes, "draw_face", None)  # nothing is drawn in this process
    assert drawn(3) == here
    assert len(started) == 3
    assert all(process.returncode is not None for process in started)


def test_without_processes(here, monkeypatch, caplog):
    assert drawn(0) == here
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with caplog.at_level(logging.WARNING):
        assert drawn(2) == here
    assert "cannot start a process that draws faces" in caplog.text


@pytest.mark.parametrize("program", ["raise SystemExit(3)", "import sys, os; sys.stdin.readline(); os.write(1, b'x')"])
def test_processes_that_die(here, monkeypatch, caplog, program):
    monkeypatch.setattr(processes, "_PROGRAM", program)
    with caplog.at_level(logging.WARNING):
        assert drawn(2) == here
    assert caplog.text.count("ended early") == 2


def test_drawing_loads_no_torch():
    code = "import sys, aminet_fast.data.drawn.processes; print('torch' in sys.modules)"
    run = [sys.executable, "-c", code]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_script_without_a_guard(tmp_path):
    """It would start itself again and again; and torch's threads have run before the processes start."""
    (tmp_path / "script.py").write_text(
        "print('once')\n"
        "import torch; torch.mm(torch.ones(300, 300), torch.ones(300, 300))\n"
        "from aminet_fast.data import DataConfig, faces, open_faces\n"
        "from aminet_fast.data.drawn import processes\n"
        "processes.draw_face = faces._MANY = 8  # no face can be drawn here\n"
        "faces._workers = lambda: 2\n"
        "print(len(open_faces(DataConfig(drawn=12, size=32, cache='cache'))))\n"
    )
    root = os.pathsep.join(filter(None, [processes._PACKAGES, os.environ.get("PYTHONPATH", "")]))
    run = [sys.executable, "script.py"]
    environ = {**os.environ, "PYTHONPATH": root}
    result = subprocess.run(run, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "once\n12\n", "")


def test_a_set_is_the_same_with_any_number_of_processes(tmp_path, monkeypatch):
    arrays = []
    for cpus in (1, 3):
        monkeypatch.setattr(faces, "_MANY", 8)
        monkeypatch.setattr(faces, "_workers", lambda cpus=cpus: cpus)
        config = DataConfig(drawn=10, size=32, cache=str(tmp_path / str(cpus)))
        arrays.append(np.array(open_faces(config).store.part("hr")))
    assert np.array_equal(*arrays)
