"""``aminet evaluate``: scores of a network on a set of faces, against bicubic."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.progress import Progress
from torch import Tensor

from ..data import open_faces, to_image
from ..data.sources import list_faces
from ..metrics import PROTOCOLS, load_metrics
from ..metrics.metric_set import check_metrics
from ..network.expects import check_scale, expects_of
from ..network.inference import choose_device, load_network
from ..output.atomic import make_writable
from ..output.console import make_console
from .config import EvaluateConfig, check_config
from .scores import OnBatch, Quality, Scores, evaluate_model, evaluate_protocols

__all__ = ["EvaluateConfig", "OnBatch", "Quality", "Scores", "evaluate", "evaluate_model", "evaluate_protocols"]


def evaluate(config: EvaluateConfig) -> int:
    """Runs ``aminet evaluate``: prints a table, writes the files asked for.

    Returns:
        Exit status: 0, or 1 when the network returned NaN for some pictures, or a metric has no value for some.

    Raises:
        ValueError, OSError: settings, weights or faces that cannot be, faces without HR, an unusable `out`.
        ImportError: the package of a metric is not installed.
    """
    from .report import ImageWriter, print_scores, write_scores

    check_config(config)
    check_metrics(config.metrics)
    device = choose_device(config.device)
    weights = None if config.weights == "bicubic" else config.weights
    model = load_network(weights, device, config.backend) if weights is not None else None
    if model is not None:
        check_scale(expects_of(model), config.data.scale)  # before faces are prepared
    split = _split(config)
    faces = open_faces(config.data, split)
    if not faces.has_hr:
        raise ValueError(
            f"the {len(faces)} faces of {config.data.root} are LR pictures without originals, so there is nothing to "
            f"score against. Enlarge them with: aminet upscale {config.data.root} --weights RUN --out DIR"
        )
    metrics = load_metrics(
        config.metrics,
        device=device,
        lpips_weights=config.lpips_weights,
        inception_weights=config.inception_weights,
    )
    if config.out is not None:
        make_writable(config.out, "the folder of scores")
    errors = make_console(stderr=True)
    writer = None
    if config.save_images and config.out is not None:
        writer = ImageWriter(_images_folder(config.out, config.data.root), faces.names)
    protocols = PROTOCOLS if config.protocol == "both" else (config.protocol,)
    broken = 0
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("scoring", total=len(faces))

        def on_batch(names: list[str], sr: Tensor) -> None:
            nonlocal broken
            bar.advance(task, len(names))
            broken += int(sr.isnan().flatten(1).any(dim=1).sum())
            if writer is not None:
                writer.write([to_image(picture) for picture in sr.nan_to_num(0.0)])

        scores = evaluate_protocols(
            model,
            faces,
            protocols,
            metrics=metrics,
            batch_size=config.batch_size,
            autocast=config.precision == "bf16",
            ensemble=config.ensemble,
            workers=config.workers,
            on_batch=on_batch,
        )
    intervals = {p: s.intervals(config.confidence, config.resamples) for p, s in scores.items() if config.confidence}
    print_scores(config, split, faces.fingerprint, scores, intervals, metrics.weights)
    if config.out is not None:
        write_scores(config, split, faces.fingerprint, scores, intervals, metrics.weights)
    if broken:
        errors.print(f"error: the network returned NaN for {broken} pictures; their scores are nan", style="red")
    undefined = any(score.undefined for score in scores.values())
    if undefined:
        text = "error: a metric has no value for some pictures, named above; leave them, or the metric, out"
        errors.print(text, style="red", highlight=False, soft_wrap=True)
    return 1 if broken or undefined else 0


def _split(config: EvaluateConfig) -> Literal["train", "val", "test", "all"]:
    if config.split != "auto":
        return config.split
    return "test" if list_faces(config.data).splits.get("test") else "all"


def _images_folder(out: str, root: str | None) -> Path:
    """Where restored pictures go: never among the faces, which they would replace or join."""
    folder = Path(out) / "images"
    if root is not None and folder.resolve().is_relative_to(Path(root).expanduser().resolve()):
        raise ValueError(f"{folder} lies in the set of faces {root}; choose another --out")
    return folder
