"""What an evaluation prints and writes."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import PIL
import torch
from PIL import Image
from rich.table import Table

from .. import __version__
from ..metrics.fid import FEATURES
from ..metrics.interval import SEED
from ..output.atomic import atomic_write
from ..output.console import make_console, print_table
from ..output.listing import first_few

if TYPE_CHECKING:
    from .config import EvaluateConfig
    from .scores import Intervals, Quality, Scores

# metric -> heading, digits of a mean
_COLUMNS = {
    "psnr": ("PSNR dB", 3),
    "ssim": ("SSIM", 4),
    "vif": ("VIF", 4),
    "vifp": ("VIF-P", 4),
    "lpips": ("LPIPS", 4),
    "fid": ("FID", 2),
}
_NOTES = {
    "psnr": "PSNR, SSIM: luma of MATLAB's YCbCr, peak 255, no border cropped.",
    "ssim": "PSNR, SSIM: luma of MATLAB's YCbCr, peak 255, no border cropped.",
    "vif": "VIF: steerable pyramid, on Pillow's grey.",
    "vifp": "VIF-P: VIF in the pixel domain, on Pillow's grey; not the papers' VIF.",
    "lpips": "LPIPS: AlexNet, version 0.1; lower is better.",
    "fid": "FID: torch-fidelity; lower is better.",
}
_PACKAGES = {"vifp": "torchmetrics", "lpips": "lpips", "fid": "torch-fidelity"}

# protocol -> intervals of "bicubic", "ours" and "gain"; empty where none were asked for
AllIntervals = Mapping[str, "dict[str, Intervals]"]


def print_scores(
    config: EvaluateConfig,
    split: str,
    fingerprint: str,
    scores: Mapping[str, Scores],
    intervals: AllIntervals,
    metric_weights: Mapping[str, Any],
) -> None:
    """Prints a table a protocol: a row a method, a column a metric, under each mean its interval."""
    first = next(iter(scores.values()))
    count = len(first.names)
    where = config.data.root or "drawn faces"
    console = make_console()
    title = f"{count} faces ({split}) of {where}, set {fingerprint[:12]}"
    console.print(title, markup=False, highlight=False, soft_wrap=True)
    for protocol, score in scores.items():
        print_table(console, _table(score, intervals.get(protocol, {}), _network(config)))
    notes = ["Mean over pictures."]
    if intervals:
        notes[0] = (
            f"Mean over pictures; under it the {100 * config.confidence:g}% interval of {config.resamples} resamples "
            "of the pictures."
        )
    if _ensemble(config) != "none":
        notes.append("AMINet, flip: the mean of its results for each picture and for its mirror image.")
    for note in dict.fromkeys([*notes, *(_NOTES[name] for name in first.metrics)]):
        console.print(note, style="dim", highlight=False, soft_wrap=True)
    for warning in _warnings(first.metrics, count, metric_weights):
        console.print(warning, style="yellow", markup=False, highlight=False, soft_wrap=True)
    for protocol, score in scores.items():
        for name, names in score.undefined.items():
            console.print(
                f"{protocol}: {_COLUMNS[name][0]} has no value for {len(names)} of {count} pictures, whose originals "
                f"are of one grey: {first_few(names)}; its means are over the other {count - len(names)}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        for who, quality in (("bicubic", score.bicubic), ("AMINet", score.ours)):
            if quality.identical and not (who == "AMINet" and _bicubic_only(config)):
                console.print(
                    f"{protocol}: {quality.identical} pictures of {who} equal their originals "
                    "(infinite PSNR) and are left out of its mean PSNR"
                )


def write_scores(
    config: EvaluateConfig,
    split: str,
    fingerprint: str,
    scores: Mapping[str, Scores],
    intervals: AllIntervals,
    metric_weights: Mapping[str, Any],
) -> None:
    """Writes scores_<protocol>.csv and summary.json to ``config.out``, each whole or not at all."""
    out = Path(str(config.out))
    first = next(iter(scores.values()))
    for protocol, score in scores.items():
        with atomic_write(out / f"scores_{protocol}.csv") as file:
            file.write(_csv(score, bicubic_only=_bicubic_only(config)).encode(errors="surrogateescape"))
    summary: dict[str, Any] = {
        "weights": "bicubic" if _bicubic_only(config) else config.weights,
        "precision": config.precision,
        "ensemble": _ensemble(config),
        "data": {"split": split, "count": len(first.names), "fingerprint": fingerprint} | asdict(config.data),
        "versions": {"aminet_fast": __version__, "torch": torch.__version__, "pillow": PIL.__version__}
        | {package: version(package) for name, package in _PACKAGES.items() if name in first.metrics},
        "metric_weights": dict(metric_weights),
        "interval": {
            "confidence": config.confidence,
            "resamples": config.resamples,
            "seed": SEED,
            "method": "percentile bootstrap over pictures, paired for the gain",
        }
        if intervals
        else None,
        "scores": {p: _summary(s, intervals.get(p, {}), bicubic_only=_bicubic_only(config)) for p, s in scores.items()},
    }
    with atomic_write(out / "summary.json") as file:
        file.write((json.dumps(summary, indent=2, allow_nan=False) + "\n").encode())
    make_console().print(f"Scores of every picture are in {out}", markup=False, highlight=False, soft_wrap=True)


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


def _ensemble(config: EvaluateConfig) -> str:
    return "none" if _bicubic_only(config) else config.ensemble


def _network(config: EvaluateConfig) -> str | None:
    """The row of the network; None where there is none."""
    if _bicubic_only(config):
        return None
    return "AMINet" if config.ensemble == "none" else f"AMINet, {config.ensemble}"


def _table(score: Scores, intervals: Mapping[str, Intervals], network: str | None) -> Table:
    table = Table()
    table.add_column(f"method ({score.protocol})", no_wrap=True)
    for name in score.metrics:
        # An interval may break at its comma where the terminal is narrow.
        table.add_column(_COLUMNS[name][0], justify="right")
    rows = {"bicubic": ("bicubic", score.bicubic.mean, "")}
    if network is not None:
        rows |= {network: ("ours", score.ours.mean, ""), "gain": ("gain", score.gain, "+")}
    for label, (who, mean, sign) in rows.items():
        cells = []
        for name in score.metrics:
            digits = _COLUMNS[name][1]
            ends = intervals.get(who, {}).get(name)
            under = "" if ends is None else "\n[{:{s}.{d}f}, {:{s}.{d}f}]".format(*ends, s=sign, d=digits)
            cells.append(f"{mean(name):{sign}.{digits}f}{under}")
        table.add_row(label, *cells)
    return table


def _warnings(metrics: Sequence[str], count: int, metric_weights: Mapping[str, Any]) -> list[str]:
    """What keeps the scores from being compared with published ones."""
    warnings = [
        f"{_COLUMNS[name][0]} used {file['file']}, which is not the published file of weights: other scores than the "
        "papers'."
        for name, file in metric_weights.items()
        if not file["published"]
    ]
    if "fid" in metrics:
        text = f"FID compares {count} pictures with {count} originals."
        if count < FEATURES:
            text += (
                f" It is unreliable: below {FEATURES} pictures the covariance of the {FEATURES} features has no full "
                "rank. Compare it with FIDs of the very same pictures only."
            )
        warnings.append(text)
    return warnings


def _csv(score: Scores, *, bicubic_only: bool) -> str:
    """Per-picture scores at full precision; infinite PSNR is written inf."""
    columns: dict[str, Sequence[Any]] = {"name": score.names}
    columns |= {f"bicubic_{name}": values.tolist() for name, values in score.bicubic.values.items()}
    if not bicubic_only:
        columns |= {name: values.tolist() for name, values in score.ours.values.items()}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def _summary(score: Scores, intervals: Mapping[str, Intervals], *, bicubic_only: bool) -> dict[str, Any]:
    """Means and their intervals, and what they leave out; a value that JSON cannot hold (infinite, NaN) is null."""
    result: dict[str, dict[str, Any]] = {"bicubic": _means(score.bicubic, score.metrics)}
    if not bicubic_only:
        result["ours"] = _means(score.ours, score.metrics)
        result["gain"] = {name: _finite(score.gain(name)) for name in score.metrics}
    for who, means in result.items():
        if who in intervals:
            means["interval"] = intervals[who]
    if score.undefined:
        result["undefined"] = dict(score.undefined)
    return result


def _means(quality: Quality, metrics: Sequence[str]) -> dict[str, Any]:
    means: dict[str, Any] = {name: _finite(quality.mean(name)) for name in metrics}
    return means | ({"identical": quality.identical} if "psnr" in metrics else {})


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
