"""Scores of a network on a set of faces, against bicubic: ``aminet evaluate`` and the functions behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.utils.data import DataLoader

from aminet_fast._atomic import make_writable
from aminet_fast.data import DataConfig, FaceDataset, open_faces, to_image
from aminet_fast.data.sources import list_faces
from aminet_fast.inference import choose_device, evaluating, load_network, restore
from aminet_fast.metrics import PROTOCOLS, mean_psnr, psnr, ssim
from aminet_fast.metrics.luma import check_protocol

OnBatch = Callable[[list[str], Tensor], None]


@dataclass
class EvaluateConfig:
    """PSNR and SSIM of a network on faces, beside bicubic's.

    Args:
        weights: run folder, pretrained folder, .safetensors file or checkpoint; bicubic (or nothing) scores
            bicubic alone.
        data: the faces.
        split: which part of them; auto takes the test split where the set has one, else every picture.
        protocol: fsr truncates pictures and luma to 8 bits as the papers' scripts do, exact rounds the
            picture and keeps the luma's fractions, both prints both.
        batch_size: pictures at a time.
        device: auto, cpu, cuda, cuda:1, ...
        backend: what runs the network's operators: auto, cpu, triton, cuda, or reference for plain PyTorch; without
            it, AMINET_FAST_BACKEND, else auto.
        out: folder for scores_<protocol>.csv (one row a picture) and summary.json.
        save_images: also write the restored pictures to <out>/images.
        precision: fp32, or bf16 by autocast.
        workers: processes that prepare pictures; 0 does it in this one.
    """

    weights: str | None = None
    data: DataConfig = field(default_factory=DataConfig)
    split: Literal["auto", "train", "val", "test", "all"] = "auto"
    protocol: Literal["fsr", "exact", "both"] = "fsr"
    batch_size: int = 8
    device: str = "auto"
    backend: str | None = None
    out: str | None = None
    save_images: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"
    workers: int = 0


@dataclass(frozen=True)
class Quality:
    """Scores of one method: `psnr` in dB and `ssim`, float64 [N], one value a picture."""

    psnr: np.ndarray
    ssim: np.ndarray

    @property
    def identical(self) -> int:
        """Pictures whose luma equals the original's: their PSNR is infinite."""
        return int(np.isposinf(self.psnr).sum())

    @property
    def mean_psnr(self) -> float:
        """Average over pictures in dB, without the identical ones."""
        return mean_psnr(self.psnr.tolist())

    @property
    def mean_ssim(self) -> float:
        return float(self.ssim.mean())


@dataclass(frozen=True)
class Scores:
    """Scores of a network and of bicubic on the same pictures under one protocol, in the order of `names`."""

    protocol: str
    names: list[str]
    ours: Quality
    bicubic: Quality

    @property
    def gain_psnr(self) -> float:
        """Mean PSNR over bicubic's in dB."""
        return self.ours.mean_psnr - self.bicubic.mean_psnr

    @property
    def gain_ssim(self) -> float:
        return self.ours.mean_ssim - self.bicubic.mean_ssim


def evaluate_model(
    model: nn.Module | None,
    dataset: FaceDataset,
    *,
    protocol: str = "fsr",
    batch_size: int = 8,
    device: str | torch.device | None = None,
    autocast: bool = False,
    workers: int = 0,
    on_batch: OnBatch | None = None,
) -> Scores:
    """Scores a network on every picture of a set under one protocol.

    Args:
        model: takes and returns [N, 3, H, W] in [-1, 1]; it is evaluated in eval mode and left in the mode
            it was in. None scores bicubic alone, as `ours` too.
        dataset: items with "input", "hr" and "name", as `FaceDataset` gives them.
        protocol: "fsr" or "exact".
        batch_size: pictures at a time.
        device: move the network there first; None leaves it where it is.
        autocast: run the network in bfloat16 autocast.
        workers: processes that prepare pictures.
        on_batch: called after each batch with its names and the restored pictures, float32 [N, 3, H, W] on
            the CPU.

    Raises:
        ValueError: the set is empty or has no HR pictures, or the protocol is unknown.
    """
    scores = evaluate_protocols(
        model,
        dataset,
        (protocol,),
        batch_size=batch_size,
        device=device,
        autocast=autocast,
        workers=workers,
        on_batch=on_batch,
    )
    return scores[protocol]


def evaluate_protocols(
    model: nn.Module | None,
    dataset: FaceDataset,
    protocols: tuple[str, ...] = PROTOCOLS,
    *,
    batch_size: int = 8,
    device: str | torch.device | None = None,
    autocast: bool = False,
    workers: int = 0,
    on_batch: OnBatch | None = None,
) -> dict[str, Scores]:
    """As :func:`evaluate_model` for several protocols; the network runs once."""
    for protocol in protocols:
        check_protocol(protocol)
    if len(dataset) == 0:
        raise ValueError("the set of faces is empty; nothing can be scored")
    if "hr" not in dataset[0]:
        raise ValueError(
            "this set has LR pictures only, so there is no original to score against; "
            "use `aminet upscale` on its pictures instead"
        )
    network = model if model is not None else nn.Identity()
    if device is not None:
        network = network.to(device)
    names: list[str] = []
    # (protocol, ours | bicubic, metric) -> one [n] tensor a batch
    values: dict[tuple[str, str, str], list[Tensor]] = {}
    with evaluating(network):
        for batch in DataLoader(dataset, batch_size=batch_size, num_workers=workers):
            sr = restore(network, batch["input"], autocast=autocast and model is not None)
            names += batch["name"]
            for protocol in protocols:
                for who, pictures in (("ours", sr), ("bicubic", batch["input"])):
                    for what, metric in (("psnr", psnr), ("ssim", ssim)):
                        values.setdefault((protocol, who, what), []).append(metric(pictures, batch["hr"], protocol))
            if on_batch is not None:
                on_batch(list(batch["name"]), sr)

    def quality(protocol: str, who: str) -> Quality:
        return Quality(*(torch.cat(values[protocol, who, what]).numpy() for what in ("psnr", "ssim")))

    return {p: Scores(p, names, quality(p, "ours"), quality(p, "bicubic")) for p in protocols}


def evaluate(config: EvaluateConfig) -> int:
    """Runs ``aminet evaluate``: prints a table, writes the files asked for.

    Returns:
        Exit status: 0, or 1 when the network returned NaN for some pictures.

    Raises:
        ValueError, OSError: settings, weights or faces that cannot be, faces without HR, an unusable `out`.
    """
    from aminet_fast.evaluate_report import ImageWriter, print_scores, write_scores

    if config.save_images and config.out is None:
        raise ValueError("save_images needs a folder for them: --out DIR")
    if config.batch_size < 1:
        raise ValueError(f"batch_size is {config.batch_size}, wanted at least 1")
    device = choose_device(config.device)
    weights = None if config.weights == "bicubic" else config.weights
    model = load_network(weights, device, config.backend) if weights is not None else None
    split = _split(config)
    faces = open_faces(config.data, split)
    if not faces.has_hr:
        raise ValueError(
            f"the {len(faces)} faces of {config.data.root} are LR pictures without originals, so there is nothing to "
            f"score against. Enlarge them with: aminet upscale {config.data.root} --weights RUN --out DIR"
        )
    if config.out is not None:
        make_writable(config.out, "the folder of scores")
    errors = Console(stderr=True)
    writer = None
    if config.save_images and config.out is not None:
        writer = ImageWriter(Path(config.out) / "images", faces.names)
    protocols = PROTOCOLS if config.protocol == "both" else (config.protocol,)
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("scoring", total=len(faces))

        def on_batch(names: list[str], sr: Tensor) -> None:
            bar.advance(task, len(names))
            if writer is not None:
                writer.write([to_image(picture) for picture in sr.nan_to_num(0.0)])

        scores = evaluate_protocols(
            model,
            faces,
            protocols,
            batch_size=config.batch_size,
            autocast=config.precision == "bf16",
            workers=config.workers,
            on_batch=on_batch,
        )
    print_scores(config, split, faces.fingerprint, scores)
    if config.out is not None:
        write_scores(config, split, faces.fingerprint, scores)
    broken = sum(int(np.isnan(s.ours.psnr).any()) for s in scores.values())
    if broken:
        errors.print("error: the network returned NaN for some pictures; their scores are nan", style="red")
    return 1 if broken else 0


def _split(config: EvaluateConfig) -> Literal["train", "val", "test", "all"]:
    if config.split != "auto":
        return config.split
    return "test" if list_faces(config.data).splits.get("test") else "all"
