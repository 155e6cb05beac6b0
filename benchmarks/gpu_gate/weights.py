"""A run's weights as files of less than 16 MiB, and a run that goes on from them.

``python -m benchmarks.gpu_gate.weights FOLDER OUT`` joins what phase C left in FOLDER to a network in OUT that
`load_model` takes: the average's weights, which came in float16, in float32.

Files: average-<n>.safetensors, the weights that are validated, in float16; master-<n>.safetensors, those that are
trained, in float32; training.json, the step, the network, the rows of metrics.csv. Adam's moments are left out: they
are twice the master's bytes, and `going_on` makes them again from some batches.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

PART = 15 * 2**20  # bytes of a file at most, but for its header
ABOUT = "training.json"
ROWS = 400  # of metrics.csv that are kept, the last ones
COUNTERS = ("step", "seconds", "best", "val_faces", "faces")


def export(checkpoint: Path, folder: Path, out: Path) -> list[str]:
    """Names of the files, which replace those of an earlier checkpoint one by one; training.json is the last."""
    from aminet_fast.network.checkpoint import read_checkpoint
    from aminet_fast.training.runs.logs import read_metrics

    state = read_checkpoint(checkpoint)
    average = {name: half(t) for name, t in (state["ema"] or state["model"]).items()}
    names = []
    for kind, tensors in (("average", average), ("master", state["model"])):
        for number, part in enumerate(parts(tensors), 1):
            names.append(f"{kind}-{number}.safetensors")
            temporary = folder / f".{names[-1]}"
            save_file(part, temporary, metadata={"format": "pt", "step": str(state["step"])})
            moved(temporary, out / names[-1])
    for old in (*out.glob("average-*.safetensors"), *out.glob("master-*.safetensors")):
        if old.name not in names:
            old.unlink()
    curve = read_metrics(folder / "metrics.csv")[-ROWS:]
    network = {"model": state["model_config"], "expects": state.get("expects")}
    about = {name: state[name] for name in COUNTERS} | network | {"files": names, "curve": curve}
    (folder / f".{ABOUT}").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    moved(folder / f".{ABOUT}", out / ABOUT)
    return [*names, ABOUT]


def moved(temporary: Path, target: Path) -> None:
    """In one step where both are on one file system. A machine takes back few files: none lies beside the target."""
    try:
        os.replace(temporary, target)
    except OSError:
        shutil.copyfile(temporary, target)
        temporary.unlink()


def half(t: Tensor) -> Tensor:
    return t.half() if t.is_floating_point() else t


def parts(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """In their order, each as many as fit in PART bytes."""
    made: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, t in tensors.items():
        bytes_ = t.numel() * t.element_size()
        if made[-1] and size + bytes_ > PART:
            made.append({})
            size = 0
        made[-1][name] = t.contiguous()
        size += bytes_
    return made


def recorded(folder: Path) -> dict[str, Any]:
    """training.json. FileNotFoundError, ValueError."""
    path = folder / ABOUT
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {ABOUT}: it is no folder that phase C left")
    return json.loads(path.read_text(encoding="utf-8"))


def joined(folder: Path, kind: str) -> dict[str, Tensor]:
    """All tensors of "average" or "master". ValueError where files are of different steps."""
    from safetensors import safe_open

    about = recorded(folder)
    tensors: dict[str, Tensor] = {}
    for name in (name for name in about["files"] if name.startswith(f"{kind}-")):
        with safe_open(folder / name, "pt") as file:
            step = int(file.metadata()["step"])
        if step != about["step"]:
            raise ValueError(f"{folder / name} is of step {step}, {ABOUT} of step {about['step']}")
        tensors |= load_file(folder / name)
    return tensors


def save(folder: Path, out: Path) -> None:
    """The average's weights in float32, as AMINet.save_pretrained has them."""
    from aminet_fast import AMINet, AMINetConfig, Expects

    about = recorded(folder)
    expects = Expects.from_dict(about.get("expects") or {})
    model = AMINet(AMINetConfig.from_dict(about["model"]), "reference", expects)
    model.load_state_dict({n: t.float() if t.is_floating_point() else t for n, t in joined(folder, "average").items()})
    model.save_pretrained(out)


def going_on(config: Any, folder: Path, batches: int) -> dict[str, Any]:
    """Write a checkpoint into the run folder of `config` as the run in `folder` left it, with Adam's moments of
    `batches` batches at these weights, whose steps move nothing.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    from aminet_fast.data import open_faces
    from aminet_fast.training.batches import to_device, train_batches
    from aminet_fast.training.runs.checkpoint import save_checkpoint
    from aminet_fast.training.runs.folder import RunFolder
    from aminet_fast.training.runs.logs import COLUMNS
    from aminet_fast.training.session import Session

    about, master = recorded(folder), joined(folder, "master")
    average = {n: t.float() if t.is_floating_point() else t for n, t in joined(folder, "average").items()}
    accelerator = Accelerator(
        cpu=config.device == "cpu", mixed_precision="bf16" if config.precision == "bf16" else "no"
    )
    try:
        session = Session(config, accelerator, open_faces(config.data, "train", augment=config.augment), None, master)
        session.step = about["step"]
        stream = train_batches(
            session.faces,
            batch_size=config.batch_size,
            seed=config.seed,
            workers=config.workers,
            accumulate=config.accumulate,
            step=session.step,
            steps=session.step + batches,
            rank=0,
            world=1,
            pin=False,
        )
        for batch in stream:
            given, wanted = (to_device(batch[k], accelerator.device, config.channels_last) for k in ("input", "hr"))
            for group in session.optimizer.param_groups:
                group["lr"] = 0.0
            for loss in session.objective.losses(given, wanted).backward:
                accelerator.backward(loss)
            session.objective.step()
        session.net.load_state_dict(master)  # batch norms have counted on
        if config.ema is not None:
            session.shadow.average.load_state_dict(average)
        session.seconds = about["seconds"]
        run = RunFolder(Path(config.out))
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        lines = [",".join(COLUMNS), *(",".join(row.get(c) or "" for c in COLUMNS) for row in about["curve"])]
        run.metrics.write_text("\n".join(lines) + "\n", encoding="utf-8")
        path = save_checkpoint(run.checkpoints, session.state(), config.keep)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        torch.set_grad_enabled(True)
    return {"step": about["step"], "batches": batches, "checkpoint": path.name}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_gate.weights", description=__doc__.split("\n\n")[1].replace("\n", " ")
    )
    parser.add_argument("folder", type=Path, help="what phase C left")
    parser.add_argument("out", type=Path, help="folder of the network")
    options = parser.parse_args()
    save(options.folder, options.out)
    print(f"{options.out}: step {recorded(options.folder)['step']}")


if __name__ == "__main__":
    main()
