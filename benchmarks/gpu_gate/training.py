"""Training with the whole step as a CUDA graph: two short runs to compare, and one as long as there is time."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

from .run import Run, SkippedError

RESERVE = 20.0  # seconds that the last checkpoint, its copy and the end of the run may take
POLL = 1.0  # seconds between looks for a new checkpoint
CURVE_STEPS = 400
TINY_MODEL = {"width": 4, "sa": False, "skaf": "none", "attention_unit": "none", "rdfe_kernels": [3], "dw_twice": False,
              "frm_convs": 1, "hourglass_width": 4}  # fmt: skip


def faces(run: Run) -> Any:
    """The faces' DataConfig. SkippedError where the folder is not there."""
    from aminet_fast.data import DataConfig

    cache = str(run.work / "faces")
    if run.tiny:
        return DataConfig(size=32, drawn=64, limit=10, val_limit=3, cache=cache)
    if run.options.faces == "drawn":
        return DataConfig(cache=cache, drawn=2048)
    root = Path(run.options.faces)
    if not root.is_dir():
        raise SkippedError(f'there are no faces in {root}; --faces names a folder, or "drawn"')
    if (root / "faces.zip").exists():  # as make gpu-faces packs them
        from ..gpu_pack.faces import unpacked

        root = unpacked(root, run.work / "faces-unpacked")
    return DataConfig(root=str(root), cache=cache, val_limit=256)


def settings(run: Run, out: Path, **changes: Any) -> Any:
    """A TrainConfig for this machine; what came back by `changes` goes before all."""
    from aminet_fast.training import TrainConfig

    cores = len(os.sched_getaffinity(0))
    values: dict[str, Any] = {
        "data": faces(run),
        "out": str(out),
        "precision": "bf16",
        "device": run.device.type,
        "cuda_graph": True,
        "workers": 0 if run.tiny else max(cores - 2, 1),
        "panel_every": 0,
        "keep": 1,
        "augment": "full",
    }
    if run.tiny:
        values |= {"model": TINY_MODEL, "batch_size": 2, "log_every": 1, "val_every": 2}
    return TrainConfig(**values | changes)


def curve(run: Run) -> None:
    """The losses of a float32 run and of a bfloat16 one, of one seed, side by side."""
    from aminet_fast.training import train
    from aminet_fast.training.runs.logs import read_metrics

    steps = 3 if run.tiny else CURVE_STEPS
    every = 1 if run.tiny else 20
    lines: dict[str, list[tuple[int, float]]] = {}
    for n, precision in enumerate(("bf16", "fp32")):
        until = time.time() + (run.left() - 5) / (2 - n)
        out = run.work / f"curve-{precision}"
        shutil.rmtree(out, ignore_errors=True)
        config = settings(
            run, out, precision=precision, steps=steps, log_every=every, val_every=steps, checkpoint_every=0
        )
        train(config, callback=lambda step, loss, until=until: time.time() > until)  # type: ignore[misc]
        rows = read_metrics(out / "metrics.csv")
        lines[precision] = [(int(row["step"]), float(row["loss"])) for row in rows if row["loss"]]
        validated = [float(row["val_psnr"]) for row in rows if row.get("val_psnr")]
        pace = [float(row["images_per_s"]) for row in rows if row.get("images_per_s")]
        about = {"precision": precision, "curve": lines[precision], "images_per_s": pace[-1:], "val_psnr": validated}
        run.write("curve", **about, steps=lines[precision][-1][0] if lines[precision] else 0)
    both = [(a, b) for (n, a), (m, b) in zip(*lines.values(), strict=False) if n == m]
    if both:
        apart = max(abs(a - b) / b for a, b in both)
        run.write("curves", points=len(both), largest_relative_difference=apart, last=both[-1])


def training(run: Run) -> None:
    """Trains until shortly before the end; what may be needed later is in the results' folder after each checkpoint."""
    from aminet_fast.training import train

    from .weights import going_on

    logging.basicConfig(level=logging.INFO)
    out = run.work / "run"
    config = settings(run, out, **start(run))
    if run.options.resume:
        run.write("training", what="resumed", **going_on(config, run.options.resume, batches=2 if run.tiny else 150))
    exporter = Exporter(run, out)
    until = run.until - (1.0 if run.tiny else RESERVE)
    most = 3 if run.tiny else 10**9
    steps = 0

    def stop(step: int, loss: float) -> bool:
        nonlocal steps
        steps += 1
        return time.time() > until or steps >= most

    begun = time.time()
    exporter.start()
    try:
        status = train(config, callback=stop)
    finally:
        exporter.finish()
    run.write("training", what="ended", status=status, steps=steps, seconds=time.time() - begun)


def start(run: Run) -> dict[str, Any]:
    """What kind of run it is, beside what the machine asks for."""
    often = {"checkpoint_every": 2} if run.tiny else {"checkpoint_minutes": 1.5, "checkpoint_every": 0}
    recipe = {"ema": 0.999, "lr": run.options.lr, "warmup_steps": 200, "steps": 10**6} | often
    if run.options.resume:
        from .weights import recorded

        return recipe | {"model": recorded(run.options.resume)["model"], "preset": "aminet"}
    if run.options.start == "scratch":
        return recipe if run.tiny else recipe | {"preset": run.options.preset}
    from aminet_fast.network.model import load_model

    network = load_model(run.options.start).config.to_dict()
    return recipe | {"preset": "aminet", "model": network, "start_from": run.options.start}


class Exporter(threading.Thread):
    """Copies what a later run needs out of each new checkpoint, beside the training."""

    def __init__(self, run: Run, folder: Path) -> None:
        super().__init__(daemon=True)
        self.run_of, self.folder = run, folder
        self.done = threading.Event()
        self.seen = self._newest()  # what a resumed run starts from is there already

    def run(self) -> None:
        while not self.done.wait(0.1 if self.run_of.tiny else POLL):
            self.look()

    def _newest(self) -> Path | None:
        from aminet_fast.training.runs.checkpoint import list_checkpoints

        return next(reversed(list_checkpoints(self.folder / "checkpoints")), None)

    def look(self) -> None:
        from .weights import export

        newest = self._newest()
        if newest is None or newest == self.seen:
            return
        try:
            files = export(newest, self.folder, self.run_of.out)
        except FileNotFoundError:  # the next one has just replaced it
            return
        except (OSError, ValueError) as error:
            self.run_of.write("problem", contender="", what="export", problem=str(error)[:300])
            return
        self.seen = newest
        self.run_of.write("training", what="kept", checkpoint=newest.stem, files=files)

    def finish(self) -> None:
        """The last checkpoint too."""
        self.done.set()
        self.join()
        self.look()
