from __future__ import annotations

import errno
import json
import threading
from pathlib import Path

import pytest
from PIL import Image

from aminet_fast.restoration.photograph import RestoreOptions, restore_photograph
from aminet_fast.web.job import About, Job
from aminet_fast.web.limits import Limits
from tests.restoration.inputs import assert_same
from tests.web.inputs import Darker, Detector, photograph, three_faces


def make_job(detector: Detector, limits: Limits | None = None) -> Job:
    return Job(Darker(), detector, limits=limits or Limits(), about=About("tiny", where="on cpu"))


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    path = tmp_path / "group.png"
    photograph().save(path)
    return path


def test_a_photograph(upload: Path, tmp_path: Path) -> None:
    outcome = make_job(three_faces()).run(upload, RestoreOptions(scale=2, faces=(1, 2)), tmp_path)
    wanted = restore_photograph(Darker(), photograph(), detector=three_faces(), scale=2, faces=(1, 2))
    with Image.open(outcome.png) as png:
        assert_same(png, wanted.image)
    assert outcome.png.name == "group-restored.png"
    assert outcome.png.parent.parent == tmp_path
    values = json.loads(outcome.json.read_text())
    assert [face["status"] for face in values["faces"]] == ["restored", "restored", "left out"]
    assert (values["weights"], values["detector"], values["scale"]) == ("tiny", "Detector", 2)
    assert outcome.summary.startswith("**3 faces found: 2 restored, 1 left out.** Left out: number 3 (not chosen)")
    assert [caption for _, caption in outcome.gallery] == ["face 1", "face 2"]
    with Image.open(outcome.before) as before, Image.open(outcome.after) as after:
        assert before.size == after.size == (320, 280)


def test_faces_that_were_chosen(upload: Path, tmp_path: Path) -> None:
    job = make_job(three_faces())
    outcome = job.run(upload, RestoreOptions(scale=2, faces=(2,)), tmp_path)
    assert [caption for _, caption in outcome.gallery] == ["face 2"]
    with pytest.raises(ValueError, match="9"):
        job.run(upload, RestoreOptions(scale=2, faces=(9,)), tmp_path)


def test_no_face(upload: Path, tmp_path: Path) -> None:
    outcome = make_job(Detector([])).run(upload, RestoreOptions(scale=2), tmp_path)
    with Image.open(outcome.png) as png:
        assert "Description" not in png.info  # nothing was synthesised
        assert_same(png, photograph().resize((320, 280), Image.Resampling.LANCZOS))
    assert outcome.summary.startswith("**No face was found.**")


def test_a_full_disk_leaves_nothing(upload: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("aminet_fast.web.job.save_preview", full)
    with pytest.raises(OSError, match="No space left"):
        make_job(three_faces()).run(upload, RestoreOptions(scale=2), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["group.png"]


def test_too_large_never_reaches_the_detector(upload: Path, tmp_path: Path) -> None:
    detector = three_faces()
    with pytest.raises(ValueError, match="has 160x140 pixels"):
        make_job(detector, Limits(megapixels=0.01)).run(upload, RestoreOptions(), tmp_path)
    assert detector.calls == 0


def test_one_at_a_time_and_none_after_the_end(upload: Path, tmp_path: Path) -> None:
    job, entered, go_on = make_job(three_faces()), threading.Event(), threading.Event()
    at_once: list[bool] = []
    within = threading.Lock()

    def slow(image: Image.Image) -> list[object]:
        at_once.append(within.acquire(blocking=False))
        entered.set()
        assert go_on.wait(30)
        within.release()
        return []

    job.detector = slow  # type: ignore[assignment]
    threads = [threading.Thread(target=job.run, args=(upload, RestoreOptions(scale=2), tmp_path)) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert entered.wait(30)
    assert job.busy
    go_on.set()
    for thread in threads:
        thread.join()
    assert at_once == [True, True]
    job.end()
    with pytest.raises(ValueError, match=r"^the program is ending$"):
        job.run(upload, RestoreOptions(), tmp_path)
