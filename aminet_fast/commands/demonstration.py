"""The demonstration: restore a photograph's faces, enlarge one of 16x16, train a narrow AMINet on drawn faces.

Everything it needs is in the package and its extra: no download. It ends with exit status 1 when the package's weights
do not beat bicubic by `SCENE_MARGIN` on the faces of a scene and by `FACE_MARGIN` on a face of 16x16, or the trained
network by `MARGIN` on drawn faces.
"""

from __future__ import annotations

import copy
import json
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from ..data import DataConfig, open_faces, sample_face, sample_scene, to_tensor
from ..evaluate import Scores, evaluate_model
from ..metrics import psnr, ssim
from ..metrics.panel import save_panel
from ..network.inference import device_of
from ..network.model import AMINet, load_model
from ..network.modules import accelerate, decelerate
from ..restoration import RestoreConfig, UpscaleConfig, restore_files, upscale
from ..training import TrainConfig, train
from ..training.curves import draw_curves

FACES = DataConfig(drawn=1280, val_limit=32)
MARGIN = 0.5  # dB of PSNR over bicubic on drawn faces that were not trained on
SCENE_MARGIN = 0.9  # the same on the faces of a scene, by the weights of the package
FACE_MARGIN = 1.0  # and on a face of 16x16


def demonstrate(out: Path, steps: int, minutes: float) -> int:
    """Run the demonstration in the run folder `out`; 0 when both networks beat bicubic by their margins."""
    _remove_earlier(out)
    pictures = out.with_name(f"{out.name}-photograph")
    held = [scene(pictures), face(pictures)]
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
    return 0 if all(held) and scores.gain_psnr >= MARGIN else 1


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


def scene(out: Path) -> bool:
    """Restore the faces of the sample scene with the package's weights into `out`, print the gain.

    Returns whether that is at least `SCENE_MARGIN` over bicubic, on the mean of the faces that are there.
    """
    out.mkdir(parents=True, exist_ok=True)
    there = sample_scene()
    source, panel = out / "scene.png", out / "restored.png"
    there.photograph.save(source)
    result, found, restored = _restore_file(source, out / "restored")
    size = there.original.size
    enlarged = there.photograph.resize(size, Image.Resampling.LANCZOS)
    save_panel(panel, {"enlarged (Lanczos)": to_tensor(enlarged)[None], "aminet restore": to_tensor(result)[None]})

    bicubic = there.photograph.resize(size, Image.Resampling.BICUBIC)
    boxes = [_around(points, size[0] / there.photograph.width) for points in there.points]
    before, after = (_mean_quality(image, there.original, boxes) for image in (bicubic, result))
    print(
        f"A photograph of {there.photograph.width}x{there.photograph.height} with {len(boxes)} small faces, with the"
        f" weights of the package (aminet restore PHOTO.jpg): {found} found, {restored} restored; on these faces\n"
        f"{_table(before, after, SCENE_MARGIN)}\n"
        f"  {panel}\n"
    )
    return after[0] - before[0] >= SCENE_MARGIN


def _restore_file(source: Path, folder: Path) -> tuple[Image.Image, int, int]:
    """What `aminet restore` makes of a file, and leaves in `folder`: the result, faces found and faces restored."""
    if restore_files(RestoreConfig(inputs=[str(source)], out=str(folder), force=True)):
        raise RuntimeError("the photograph could not be restored")
    faces = json.loads((folder / source.name).with_suffix(".json").read_text(encoding="utf-8"))["faces"]
    with Image.open(folder / source.name) as image:
        return image.convert("RGB"), len(faces), sum(face["status"] == "restored" for face in faces)


def _around(points: Sequence[tuple[float, float]], scale: float) -> tuple[int, int, int, int]:
    """The box of a face, chin to forehead, in the enlarged photograph's pixels: left, top, right, bottom."""
    places = [complex(*point) for point in points]
    eyes, middle = abs(places[1] - places[0]), sum(places) / len(places)
    left, top = middle.real - 1.2 * eyes, middle.imag - 1.5 * eyes
    return (
        round(scale * left),
        round(scale * top),
        round(scale * (left + 2.4 * eyes)),
        round(scale * (top + 2.8 * eyes)),
    )


def _mean_quality(
    image: Image.Image, original: Image.Image, boxes: Sequence[tuple[int, int, int, int]]
) -> tuple[float, float]:
    """Mean PSNR in dB and SSIM over the boxes, protocol exact."""
    pairs = [[to_tensor(picture.crop(box))[None] for picture in (image, original)] for box in boxes]
    return (
        statistics.mean(float(psnr(ours, wanted, "exact")) for ours, wanted in pairs),
        statistics.mean(float(ssim(ours, wanted, "exact")) for ours, wanted in pairs),
    )


def face(out: Path) -> bool:
    """Shrink a photograph's face to 16x16, super-resolve it with the package's weights into `out`, print the gain.

    Returns whether that is at least `FACE_MARGIN`.
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
        f"{_table_of(scores, FACE_MARGIN)}\n"
        f"  {panel}\n"
    )
    return scores.gain_psnr >= FACE_MARGIN


def _table_of(scores: Scores, margin: float) -> str:
    ours, bicubic = scores.ours, scores.bicubic
    return _table((bicubic.mean_psnr, bicubic.mean_ssim), (ours.mean_psnr, ours.mean_ssim), margin)


def _table(bicubic: tuple[float, float], ours: tuple[float, float], margin: float) -> str:
    """Of PSNR and SSIM."""
    gain = ours[0] - bicubic[0]
    return (
        f"  bicubic  {bicubic[0]:6.2f} dB  SSIM {bicubic[1]:.4f}\n"
        f"  AMINet   {ours[0]:6.2f} dB  SSIM {ours[1]:.4f}   ({gain:+.2f} dB)\n"
        f"  at least {margin:+.2f} dB was to be gained: {'yes' if gain >= margin else 'NO'}"
    )


def _report(scores: Scores, trained: float, steps: tuple[float, float], out: Path) -> None:
    fast, plain = steps
    print(
        f"\n{len(scores.names)} drawn faces that were not trained on, protocol {scores.protocol},"
        f" after {trained / 60:.1f} minutes of training:\n"
        f"{_table_of(scores, MARGIN)}\n\n"
        f"A training step takes {fast:.3f} s with this package's kernels, {plain:.3f} s in plain PyTorch: "
        f"{plain / fast:.2f} times as fast.\n\n"
        f"The run's curves {out / 'plot.png'}\n"
        f"The weights      {out / 'best'}   (aminet upscale FACE.png --weights {out})"
    )
