"""What an evaluation prints and writes."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import PIL
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from aminet_fast import __version__
from aminet_fast._atomic import atomic_write

if TYPE_CHECKING:
    from aminet_fast.evaluate import EvaluateConfig, Quality, Scores


def print_scores(config: EvaluateConfig, split: str, fingerprint: str, scores: Mapping[str, Scores]) -> None:
    """Prints one table: a row a method, two columns a protocol."""
    count = len(next(iter(scores.values())).names)
    where = config.data.root or "drawn faces"
    table = Table()
    table.add_column("method", no_wrap=True)
    for protocol in scores:
        table.add_column(f"PSNR dB ({protocol})", justify="right", no_wrap=True)
        table.add_column(f"SSIM ({protocol})", justify="right", no_wrap=True)
    table.add_row("bicubic", *_cells(s.bicubic for s in scores.values()))
    if not _bicubic_only(config):
        table.add_row("AMINet", *_cells(s.ours for s in scores.values()))
        gains = ((s.gain_psnr, s.gain_ssim) for s in scores.values())
        table.add_row("gain", *(text for p, q in gains for text in (f"{p:+.3f}", f"{q:+.4f}")))
    console = Console()
    title = f"{count} faces ({split}) of {where}, set {fingerprint[:12]}"
    console.print(title, markup=False, highlight=False, soft_wrap=True)
    console.print(table)
    console.print("Luma of MATLAB's YCbCr, peak 255, no border cropped; mean over pictures.", style="dim")
    for protocol, score in scores.items():
        for who, quality in (("bicubic", score.bicubic), ("AMINet", score.ours)):
            if quality.identical and not (who == "AMINet" and _bicubic_only(config)):
                console.print(
                    f"{protocol}: {quality.identical} pictures of {who} equal their originals "
                    "(infinite PSNR) and are left out of its mean PSNR"
                )


def write_scores(config: EvaluateConfig, split: str, fingerprint: str, scores: Mapping[str, Scores]) -> None:
    """Writes scores_<protocol>.csv and summary.json to ``config.out``, each whole or not at all."""
    out = Path(str(config.out))
    for protocol, score in scores.items():
        with atomic_write(out / f"scores_{protocol}.csv") as file:
            file.write(_csv(score, bicubic_only=_bicubic_only(config)).encode())
    summary: dict[str, Any] = {
        "weights": "bicubic" if _bicubic_only(config) else config.weights,
        "precision": config.precision,
        "data": {"split": split, "count": len(next(iter(scores.values())).names), "fingerprint": fingerprint}
        | asdict(config.data),
        "versions": {"aminet_fast": __version__, "torch": torch.__version__, "pillow": PIL.__version__},
        "scores": {p: _summary(s, bicubic_only=_bicubic_only(config)) for p, s in scores.items()},
    }
    with atomic_write(out / "summary.json") as file:
        file.write((json.dumps(summary, indent=2, allow_nan=False) + "\n").encode())
    Console().print(f"Scores of every picture are in {out}", markup=False, highlight=False, soft_wrap=True)


class ImageWriter:
    """Saves restored pictures as PNG under `folder`, by the names of the set.

    A name's suffix becomes .png, or is kept before it where two names differ by their suffix only.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        stems = Counter(PurePosixPath(name).with_suffix(".png") for name in names)
        self._targets = iter(
            [
                folder / (path if stems[path] == 1 else f"{name}.png")
                for name in names
                for path in [PurePosixPath(name).with_suffix(".png")]
            ]
        )

    def write(self, pictures: Sequence[Image.Image]) -> None:
        """Saves the next pictures in the order of the names. Raises OSError when one cannot be written."""
        for picture in pictures:
            with atomic_write(next(self._targets)) as file:
                picture.save(file, format="PNG")


def _bicubic_only(config: EvaluateConfig) -> bool:
    return config.weights in (None, "bicubic")


def _cells(qualities: Any) -> list[str]:
    return [text for q in qualities for text in (f"{q.mean_psnr:.3f}", f"{q.mean_ssim:.4f}")]


def _csv(score: Scores, *, bicubic_only: bool) -> str:
    """Per-picture scores at full precision; infinite PSNR is written inf."""
    columns: dict[str, Sequence[Any]] = {
        "name": score.names,
        "bicubic_psnr": score.bicubic.psnr.tolist(),
        "bicubic_ssim": score.bicubic.ssim.tolist(),
    }
    if not bicubic_only:
        columns |= {"psnr": score.ours.psnr.tolist(), "ssim": score.ours.ssim.tolist()}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def _summary(score: Scores, *, bicubic_only: bool) -> dict[str, Any]:
    """Means; a value that JSON cannot hold (infinite, NaN) is null."""
    result = {"bicubic": _means(score.bicubic)}
    if not bicubic_only:
        result["ours"] = _means(score.ours)
        result["gain"] = {"psnr": _finite(score.gain_psnr), "ssim": _finite(score.gain_ssim)}
    return result


def _means(quality: Quality) -> dict[str, float | int | None]:
    return {
        "psnr": _finite(quality.mean_psnr),
        "ssim": _finite(quality.mean_ssim),
        "identical": quality.identical,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
