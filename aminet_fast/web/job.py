"""One photograph after the other: from the uploaded file to everything that the page shows of it."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

from ..restoration.detectors import Detector, open_detector
from ..restoration.photograph import RestoreOptions, restore_photograph
from .limits import Limits, read_upload
from .results import draw_numbers, report, restored_faces, save_png, save_preview, summary


@dataclass(frozen=True)
class About:
    """What the page says of the network that serves it."""

    weights: str = "default"
    licence: str | None = None
    where: str = "on cpu"  # ends the line of a result


@dataclass(frozen=True)
class Outcome:
    """Files and pictures of one restored photograph."""

    png: Path
    json: Path
    summary: str
    before: Path
    after: Path
    numbered: Image.Image
    gallery: list[tuple[Image.Image, str]]


class Job:
    """Restores uploads with one network and one detector, one at a time.

    Args:
        model: the network, where it is.
        detector: a name that `open_detector` takes, which is opened once, or a detector.
        limits: what is too large.
        about: what is said of the network.
        autocast: run it in bfloat16 autocast.

    Raises as `open_detector`.
    """

    def __init__(
        self,
        model: nn.Module,
        detector: str | Detector,
        *,
        limits: Limits,
        about: About,
        autocast: bool = False,
    ) -> None:
        self.model = model
        self.detector_name = detector if isinstance(detector, str) else type(detector).__name__
        self.detector = open_detector(detector) if isinstance(detector, str) else detector
        self.limits = limits
        self.about = about
        self.autocast = autocast
        self._lock = threading.Lock()  # detectors keep buffers, and two photographs would need twice the memory
        self._ended = threading.Event()

    def run(self, path: Path, options: RestoreOptions, folder: Path) -> Outcome:
        """Restores the photograph of a file; results lie in a new folder inside `folder`.

        Raises ValueError, OSError for what cannot be done, with one line for the visitor; MemoryError, RuntimeError.
        """
        with self._lock:
            if self._ended.is_set():
                raise ValueError("the program is ending")
            return self._run(path, dataclasses.replace(options, autocast=self.autocast), folder)

    def end(self, *, wait: bool = True) -> None:
        """Takes no further photograph, and waits until the one in work is done."""
        self._ended.set()
        if wait:
            with self._lock:
                pass

    @property
    def busy(self) -> bool:
        """Whether a photograph is in work."""
        return self._lock.locked()

    def _run(self, path: Path, options: RestoreOptions, folder: Path) -> Outcome:
        start = time.perf_counter()
        image, icc, notes = read_upload(path, self.limits, options.scale)
        restored = restore_photograph(self.model, image, detector=self.detector, **_fields(options))
        seconds = time.perf_counter() - start
        target = Path(tempfile.mkdtemp(prefix="result-", dir=folder))
        try:
            outcome = Outcome(
                png=target / f"{path.stem}-restored.png",
                json=target / f"{path.stem}-restored.json",
                summary=summary(restored.faces, (image.size, restored.image.size), seconds, self.about.where, notes),
                before=target / "before.jpg",
                after=target / "after.jpg",
                numbered=draw_numbers(image, restored.faces),
                gallery=restored_faces(restored.faces),
            )
            save_png(restored.image, outcome.png, icc, restored.faces)
            about = self._about(outcome, path, options)
            outcome.json.write_text(report(restored.faces, image.size, about), encoding="utf-8")
            save_preview(restored.before, outcome.before, icc)
            save_preview(restored.image, outcome.after, icc)
        except BaseException:  # a full disk: Gradio removes what it is given, and this it never is
            shutil.rmtree(target, ignore_errors=True)
            raise
        return outcome

    def _about(self, outcome: Outcome, path: Path, options: RestoreOptions) -> dict[str, Any]:
        """What the report says before the faces."""
        names = ("faces", "min_score", "max_faces", "background", "blend", "ensemble")
        return {
            "source": path.name,
            "result": outcome.png.name,
            "scale": options.scale,
            "weights": self.about.weights,
            "detector": self.detector_name,
            "options": {
                **{name: getattr(options, name) for name in names},
                "precision": "bf16" if self.autocast else "fp32",
            },
        }


def _fields(options: RestoreOptions) -> dict[str, Any]:
    return {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
