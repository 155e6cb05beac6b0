"""The demonstration: super-resolve a photograph with the weights of the package, train a narrow AMINet on drawn faces.

Everything it needs is in the package: no download. It ends with exit status 1 when the package's weights do not beat
bicubic by `PHOTOGRAPH_MARGIN` on the photograph, or the trained network by `MARGIN` on drawn faces.
"""

from __future__ import annotations

import copy
import shutil
import statistics
import time
from pathlib import Path

import torch

from ..data import DataConfig, open_faces, sample_face
from ..evaluate import Scores, evaluate_model
from ..network.inference import device_of
from ..network.model import AMINet, load_model
from ..network.modules import accelerate, decelerate
from ..restoration import UpscaleConfig, upscale
from ..training import TrainConfig, train
from ..training.curves import draw_curves

FACES = DataConfig(drawn=1280, val_limit=32)
MARGIN = 0.5  # dB of PSNR over bicubic on drawn faces that were not trained on
PHOTOGRAPH_MARGIN = 1.0  # the same on the photograph, by the weights of the package


def demonstrate(out: Path, steps: int, minutes: float) -> int:
    """Run the demonstration in the run folder `out`; 0 when both networks beat bicubic by their margins."""
    _remove_earlier(out)
    held = photograph(out.with_name(f"{out.name}-photograph"))
    started = time.monotonic()
    status = train(_recipe(FACES, out, steps, minutes))
    if status:
        return status
    trained = time.monotonic() - started

    model = load_model(out)
    scores = evaluate_model(model, open_faces(FACES, "test"), protocol="fsr")
    fast, plain = step_seconds(model)
    print(draw_curves([out], smooth=5))
    _report(scores, trained, (fast, plain), out)
    return 0 if held and scores.gain_psnr >= MARGIN else 1


def _recipe(faces: DataConfig, out: Path, steps: int, minutes: float) -> TrainConfig:
    """Minutes instead of days: small batches, a high rate that falls to zero, averaged weights."""
    return TrainConfig(
        preset="aminet-nano",
        data=faces,
        out=str(out),
        batch_size=2,
        steps=steps,
        lr=2e-3,
        warmup_steps=20,
        schedule="cosine",
        augment="flip",
        ema=0.97,
        grad_clip=1.0,
        workers=0,
        val_every=200,
        panel_every=0,
        checkpoint_every=200,
        log_every=15,
        stop_after_minutes=minutes,
    )


def _remove_earlier(out: Path) -> None:
    """An earlier demonstration makes room; a folder that is no run of ours is left alone."""
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / "config.yaml").is_file():
        raise ValueError(f"{out} exists and is no run folder; name another with --out")
    shutil.rmtree(out)


def step_seconds(model: AMINet, rounds: int = 7) -> tuple[float, float]:
    """Median seconds of a training step of a copy of `model` on 4 faces, and of the same in plain PyTorch.

    Both in channels_last, PyTorch's faster layout; they take turns, so that a busy machine slows both.
    """
    plain = decelerate(copy.deepcopy(model)).train().to(memory_format=torch.channels_last)
    fast = accelerate(copy.deepcopy(plain))
    x = torch.rand(4, 3, 128, 128, device=device_of(model)).mul(2).sub(1).contiguous(memory_format=torch.channels_last)
    times: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(1 + rounds):
        for index, network in enumerate((fast, plain)):
            started = time.perf_counter()
            (network(x) - x).abs().mean().backward()
            if x.is_cuda:
                torch.cuda.synchronize()
            times[index].append(time.perf_counter() - started)
    return statistics.median(times[0][1:]), statistics.median(times[1][1:])


def photograph(out: Path) -> bool:
    """Shrink the photograph's face to 16x16, super-resolve it with the package's weights into `out`, print the gain.

    Returns whether that is at least `PHOTOGRAPH_MARGIN`.
    """
    faces, panel = out / "original", out / "panel.png"
    faces.mkdir(parents=True, exist_ok=True)
    sample_face().save(faces / "face.png")
    config = UpscaleConfig(
        inputs=[str(faces)],
        out=str(out / "upscaled"),
        lr_size=16,
        panel=str(panel),
        force=True,
    )
    if upscale(config):
        raise RuntimeError("the photograph could not be upscaled")
    scores = evaluate_model(load_model("default"), open_faces(DataConfig(root=str(faces)), "all"), protocol="fsr")
    print(
        f"A photograph's face, 16x16 to 128x128 with the weights of the package (aminet upscale FACE.png):\n"
        f"{_table(scores, PHOTOGRAPH_MARGIN)}\n"
        f"  {panel}\n"
    )
    return scores.gain_psnr >= PHOTOGRAPH_MARGIN


def _table(scores: Scores, margin: float) -> str:
    ours, bicubic = scores.ours, scores.bicubic
    return (
        f"  bicubic  {bicubic.mean_psnr:6.2f} dB  SSIM {bicubic.mean_ssim:.4f}\n"
        f"  AMINet   {ours.mean_psnr:6.2f} dB  SSIM {ours.mean_ssim:.4f}   ({scores.gain_psnr:+.2f} dB)\n"
        f"  at least {margin:+.2f} dB was to be gained: {'yes' if scores.gain_psnr >= margin else 'NO'}"
    )


def _report(scores: Scores, trained: float, steps: tuple[float, float], out: Path) -> None:
    fast, plain = steps
    print(
        f"\n{len(scores.names)} drawn faces that were not trained on, protocol {scores.protocol},"
        f" after {trained / 60:.1f} minutes of training:\n"
        f"{_table(scores, MARGIN)}\n\n"
        f"A training step takes {fast:.3f} s with this package's kernels, {plain:.3f} s in plain PyTorch: "
        f"{plain / fast:.2f} times as fast.\n\n"
        f"The run's curves {out / 'plot.png'}\n"
        f"The weights      {out / 'best'}   (aminet upscale FACE.png --weights {out})"
    )
