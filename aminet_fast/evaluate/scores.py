"""Scores of a network on a set of faces, beside bicubic's: the work behind ``aminet evaluate``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..data import FaceDataset
from ..metrics import PROTOCOLS, MetricSet, fid, load_metrics, mean_psnr
from ..metrics.interval import RESAMPLES, bootstrap_means, percentile_interval
from ..metrics.luma import check_protocol
from ..network.expects import check_scale, check_served, expects_of
from ..network.inference import Ensemble, check_ensemble, device_of, evaluating, restore
from ..network.runner import Runner, network_of

OnBatch = Callable[[list[str], Tensor], None]
# metric -> ends of its interval, None where there is none
Intervals = dict[str, "tuple[float, float] | None"]


@dataclass(frozen=True)
class Quality:
    """Scores of one method.

    `values` has float64 [N] a metric, one value a picture; `fid` is a score of the whole set, None where it was
    not asked for. `undefined` has bool [N] for a metric that has no value against some of the originals, whatever is
    compared with them: their values are NaN, and means leave them out.
    """

    values: Mapping[str, np.ndarray]
    fid: float | None = None
    undefined: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def psnr(self) -> np.ndarray:
        """In dB, [N]."""
        return self.values["psnr"]

    @property
    def ssim(self) -> np.ndarray:
        return self.values["ssim"]

    @property
    def identical(self) -> int:
        """Pictures whose luma equals the original's: their PSNR is infinite."""
        return int(np.isposinf(self.values["psnr"]).sum()) if "psnr" in self.values else 0

    @property
    def mean_psnr(self) -> float:
        """Average over pictures in dB, without the identical ones."""
        return self.mean("psnr")

    @property
    def mean_ssim(self) -> float:
        return self.mean("ssim")

    def mean(self, metric: str) -> float:
        """Average over pictures, of PSNR without the identical ones and without `undefined`; FID is the set's.

        NaN where a picture that counts has a NaN, or none counts. KeyError if not scored.
        """
        if metric == "fid" and self.fid is not None:
            return self.fid
        values = self.values[metric]
        if metric in self.undefined:
            values = values[~self.undefined[metric]]
        if metric == "psnr":
            return mean_psnr(values.tolist())
        return float(values.mean()) if len(values) else float("nan")


@dataclass(frozen=True)
class Scores:
    """Scores of a network and of bicubic on the same pictures under one protocol, in the order of `names`."""

    protocol: str
    names: list[str]
    ours: Quality
    bicubic: Quality
    metrics: tuple[str, ...] = ("psnr", "ssim")

    @property
    def undefined(self) -> dict[str, list[str]]:
        """Names of the pictures whose originals a metric has no value against, by metric; {} where there are none."""
        return {
            metric: [name for name, out in zip(self.names, mask, strict=True) if out]
            for metric, mask in self.bicubic.undefined.items()
        }

    def gain(self, metric: str) -> float:
        """Mean over bicubic's; a gain below 0 is the better one for LPIPS and FID."""
        return self.ours.mean(metric) - self.bicubic.mean(metric)

    @property
    def gain_psnr(self) -> float:
        """Mean PSNR over bicubic's in dB."""
        return self.gain("psnr")

    @property
    def gain_ssim(self) -> float:
        return self.gain("ssim")

    def intervals(self, confidence: float = 0.95, resamples: int = RESAMPLES) -> dict[str, Intervals]:
        """Bootstrap intervals of the means of "bicubic" and "ours" and of the "gain".

        Percentiles of the means over pictures drawn with replacement, the same draws for both methods, so that the
        gain's interval is the paired one. Seeded: equal scores give equal intervals. No interval for FID, which is
        no mean, nor where a mean is infinite or NaN, nor for fewer than 2 pictures.
        """
        metrics = [name for name in self.metrics if name != "fid"]
        if len(self.names) < 2 or not metrics:
            return {who: dict.fromkeys(self.metrics) for who in ("bicubic", "ours", "gain")}
        columns = [_counted(quality, name) for quality in (self.bicubic, self.ours) for name in metrics]
        bicubic, ours = np.split(bootstrap_means(np.stack(columns, axis=1), resamples), 2, axis=1)
        means = {"bicubic": bicubic, "ours": ours, "gain": ours - bicubic}
        return {
            who: dict.fromkeys(self.metrics)
            | {name: percentile_interval(table[:, i], confidence) for i, name in enumerate(metrics)}
            for who, table in means.items()
        }


def _counted(quality: Quality, metric: str) -> np.ndarray:
    """Values [N] for the bootstrap, which leaves infinities out of its means: those of `undefined` too."""
    values = quality.values[metric]
    return np.where(quality.undefined[metric], np.inf, values) if metric in quality.undefined else values


def evaluate_model(
    model: nn.Module | Runner | None,
    dataset: FaceDataset,
    *,
    protocol: str = "fsr",
    metrics: str | Sequence[str] | MetricSet = ("psnr", "ssim"),
    batch_size: int = 8,
    device: str | torch.device | None = None,
    autocast: bool = False,
    ensemble: Ensemble = "none",
    workers: int = 0,
    on_batch: OnBatch | None = None,
) -> Scores:
    """Scores a network on every picture of a set under one protocol.

    Args:
        model: takes and returns [N, 3, H, W] in [-1, 1]; it is evaluated in eval mode and left in the mode
            it was in. Or what `graph` returned for one. None scores bicubic alone, as `ours` too.
        dataset: items with "input", "hr" and "name", as `FaceDataset` gives them.
        protocol: "fsr" or "exact".
        metrics: names of ``aminet_fast.metrics.METRICS``, or what ``aminet_fast.metrics.load_metrics`` returned.
        batch_size: pictures at a time.
        device: move the network there first; None leaves it where it is.
        autocast: run the network in bfloat16 autocast.
        ensemble: "flip" averages the network's results for each picture and for its mirror image, as `restore` does.
        workers: processes that prepare pictures.
        on_batch: called after each batch with its names and the restored pictures, float32 [N, 3, H, W] on
            the CPU.

    Raises:
        ValueError: the set is empty or has no HR pictures, its pictures are too small for a metric, or the
            protocol, the ensemble or a metric is unknown, or the network's weights expect other pictures than the set's
            (`Expects`: its scale, for one).
        ImportError, FileNotFoundError: a metric's package or weights are missing, see ``load_metrics``.
    """
    scores = evaluate_protocols(
        model,
        dataset,
        (protocol,),
        metrics=metrics,
        batch_size=batch_size,
        device=device,
        autocast=autocast,
        ensemble=ensemble,
        workers=workers,
        on_batch=on_batch,
    )
    return scores[protocol]


def evaluate_protocols(
    model: nn.Module | Runner | None,
    dataset: FaceDataset,
    protocols: tuple[str, ...] = PROTOCOLS,
    *,
    metrics: str | Sequence[str] | MetricSet = ("psnr", "ssim"),
    batch_size: int = 8,
    device: str | torch.device | None = None,
    autocast: bool = False,
    ensemble: Ensemble = "none",
    workers: int = 0,
    on_batch: OnBatch | None = None,
) -> dict[str, Scores]:
    """As :func:`evaluate_model` for several protocols; the network runs once."""
    for protocol in protocols:
        check_protocol(protocol)
    check_ensemble(ensemble)
    if len(dataset) == 0:
        raise ValueError("the set of faces is empty; nothing can be scored")
    if "hr" not in dataset[0]:
        raise ValueError(
            "this set has LR pictures only, so there is no original to score against; "
            "use `aminet upscale` on its pictures instead"
        )
    if model is not None:
        check_served(expects_of(model))
        check_scale(expects_of(model), getattr(dataset, "scale", expects_of(model).scale))
    network: nn.Module | Runner = model if model is not None else nn.Identity()
    if device is not None:
        network_of(network).to(device)
    if not isinstance(metrics, MetricSet):
        metrics = load_metrics(metrics, device=device if device is not None else device_of(network))
    if metrics.inception is not None and len(dataset) < 2:
        raise ValueError("FID compares sets of pictures, and this set has one; leave fid out of the metrics")
    names: list[str] = []
    tables = {protocol: _Table(protocol, metrics) for protocol in protocols}
    with evaluating(network):
        for batch in DataLoader(dataset, batch_size=batch_size, num_workers=workers):
            sr = restore(network, batch["input"], autocast=autocast and model is not None, ensemble=ensemble)
            names += batch["name"]
            for table in tables.values():
                table.add(sr if model is not None else None, batch["input"], batch["hr"])
            if on_batch is not None:
                on_batch(list(batch["name"]), sr)
    return {protocol: table.scores(names) for protocol, table in tables.items()}


class _Table:
    """Scores of one protocol, a batch at a time."""

    def __init__(self, protocol: str, metrics: MetricSet) -> None:
        self.protocol = protocol
        self.metrics = metrics
        # (ours | bicubic, metric) -> one [n] tensor a batch; (ours | bicubic | hr, "features") -> [n, 2048]
        self.parts: dict[tuple[str, str], list[Tensor]] = {}

    def add(self, sr: Tensor | None, bicubic: Tensor, hr: Tensor) -> None:
        """Scores a batch [N, 3, H, W] of pictures in [-1, 1]; without sr, bicubic's scores stand for ours."""
        pictures = {"bicubic": bicubic} if sr is None else {"bicubic": bicubic, "ours": sr}
        for who, x in pictures.items():
            for name, metric in self.metrics.per_picture.items():
                self.parts.setdefault((who, name), []).append(metric(x, hr, self.protocol))
        if self.metrics.inception is not None:
            for who, x in (pictures | {"hr": hr}).items():
                self.parts.setdefault((who, "features"), []).append(self.metrics.inception(x, self.protocol))

    def scores(self, names: list[str]) -> Scores:
        bicubic = self._quality("bicubic")
        # Bicubic's pictures are always finite: a NaN of theirs is the original's.
        masks = {name: np.isnan(values) for name, values in bicubic.values.items() if np.isnan(values).any()}
        bicubic = replace(bicubic, undefined=masks)
        has_ours = any(who == "ours" for who, _ in self.parts)
        ours = replace(self._quality("ours"), undefined=masks) if has_ours else bicubic
        return Scores(self.protocol, names, ours, bicubic, self.metrics.names)

    def _quality(self, who: str) -> Quality:
        values = {name: torch.cat(self.parts[who, name]).numpy() for name in self.metrics.per_picture}
        if self.metrics.inception is None:
            return Quality(values)
        return Quality(values, fid(torch.cat(self.parts[who, "features"]), torch.cat(self.parts["hr", "features"])))
