"""`TrainConfig`: everything `aminet train` can be told, with the papers' recipes as the defaults."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from ..adversarial.discriminator import MultiScaleDiscriminator
from ..adversarial.perceptual import LAYERS, check_layers
from ..data import DataConfig
from ..data.augment import Augment
from ..network.presets import get_config, list_configs
from ..ops.backends import NAMES
from ..pretrained import shipped
from ..reference.config import AMINetConfig

LR, GAN_LR = 2e-4, 1e-4  # the network's; where it learns against a discriminator, less
# preset -> its generator
GAN_NETWORKS = {f"amigan{size}": f"aminet{size}" for size in ("", "-small", "-tiny", "-nano")}


# AMIGAN's recipe is that of the paper's Sections III-D and IV-B.
@dataclass
class GanConfig:
    """Train against a discriminator and on VGG19's features, too; the defaults are AMIGAN's.

    Args:
        loss: Adversarial loss: the paper's log loss, or hinge.
        pixel: Weight of the pixel loss.
        perceptual: Weight of the perceptual loss; 0: without it, and without VGG19's weights.
        adversarial: Weight of the adversarial loss.
        lr: The discriminator's learning rate; it follows the network's schedule.
        scales: Sizes of the picture that the discriminator sees, each half of the one before.
        width: Channels of the discriminator's first convolution.
        vgg: VGG19's weights, torchvision's vgg19-dcbb9e9d.pth or its tensors as .safetensors; without it, that file in
            PyTorch's cache. Nothing is downloaded.
        layers: Layers of VGG19 whose features are compared.
    """

    loss: Literal["log", "hinge"] = "log"
    pixel: float = 1.0
    perceptual: float = 0.01
    adversarial: float = 0.01
    lr: float = 4e-4
    scales: int = 2
    width: int = 64
    vgg: str | None = None
    layers: tuple[str, ...] = LAYERS

    def __post_init__(self) -> None:
        self.layers = tuple(self.layers)  # YAML has no tuples

    def check(self) -> None:
        """Raises ValueError naming a value that cannot be.

        Not in `__post_init__`: there jsonargparse would take it for a sign that null was meant.
        """
        check_layers(self.layers, "gan.layers")
        for name in ("pixel", "perceptual", "adversarial"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"gan.{name} is {value!r}; it must be at least 0")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"gan.lr is {self.lr!r}; it must be above 0")
        for name in ("scales", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"gan.{name} is {getattr(self, name)}; it must be at least 1")

    def check_size(self, size: int) -> None:
        """Raises ValueError when faces of size x size leave the last scale nothing to see."""
        least = MultiScaleDiscriminator.smallest(self.scales)
        if size < least:
            raise ValueError(
                f"gan.scales is {self.scales}; that needs faces of {least} pixels, and data.size is {size}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain YAML values."""
        return {**dataclasses.asdict(self), "layers": list(self.layers)}


@dataclass
class TrainConfig:
    """Train AMINet on faces; the defaults are the paper's recipe.

    Args:
        preset: Named network: aminet, aminet-small, aminet-tiny, aminet-nano, or an ablation of the paper's tables (a
            name that is none gets the list of all); amigan, amigan-small and so on: the same networks, with gan.
        model: Fields of the network to change from the preset, as --model.width 12.
        data: Training faces; without a root, drawn ones.
        val: Faces to validate on, all of them, as --val.root DIR; without it, the validation split of data.
        out: Run folder; without it, runs/<preset>.
        batch_size: Faces in a batch, on each process.
        accumulate: Batches whose gradients are summed into one step.
        epochs: Passes over the training faces.
        steps: Optimiser steps; when given, epochs is not used.
        lr: Adam's learning rate; without it, 2e-4, and 1e-4 with gan.
        betas: Adam's betas.
        schedule: Learning rate over the run: constant, or a cosine down to zero at the last step.
        warmup_steps: Steps over which the learning rate rises linearly from zero.
        augment: full: horizontal flip and random resized crop; pose: flip, and two of three faces turned by up
            to 30 degrees, scaled and shifted, for faces as photographs have them; flip: the flip alone, for runs of a
            few epochs; none.
        loss: Training loss; with gan, its pixel loss.
        init: Initial weights: PyTorch's, or N(0, 0.02) in every convolution as in the SPARNet line of work.
        gan: Train against a discriminator and on VGG19's features, as --gan.loss hinge; the defaults are AMIGAN's.
        start_from: Weights to start a new run from: a run folder, a folder of save_pretrained, a .safetensors file or a
            checkpoint, of the same network and data.scale.
        precision: fp32; bf16 or fp16: autocast over fp32 weights, fp16 with a scaled loss.
        ema: Decay of the moving average of the weights, which is then validated and saved; without it, no average.
        grad_clip: Largest gradient norm; without it, gradients are not clipped.
        seed: Seed of the weights, the order of the faces and their augmentation.
        workers: Processes that load faces, on each training process; 0: none.
        device: Where to train; auto takes the GPU when there is one.
        channels_last: Keep pictures and weights in channels_last order, the faster one.
        compile: Pass the network through torch.compile.
        cuda_graph: Capture the whole step in one CUDA graph, so that launches take no time of the CPU's; for one
            process and accumulate 1. Without a GPU the step runs as it is.
        backend: What runs the network's operators: auto, cpu, triton, cuda, or reference for plain PyTorch; without it,
            AMINET_FAST_BACKEND, else auto.
        deterministic: Use only deterministic algorithms (slower on a GPU).
        val_every: Steps between validations; 0: never.
        panel_every: Steps between panel pictures; 0: never.
        panel_faces: Validation faces on a panel.
        checkpoint_every: Steps between checkpoints; 0: only by time and at the end.
        checkpoint_minutes: Most minutes between checkpoints; 0: only by steps and at the end.
        keep: Checkpoints to keep, the newest.
        log_every: Steps between rows of metrics.csv and lines of progress.
        resume: "auto": go on from the newest checkpoint in the run folder, if there is one; "never"; or the path of
            a checkpoint to start from, which also allows a changed recipe.
        stop_after_minutes: Save and stop after this many minutes; the run can be resumed.
        tensorboard: Write TensorBoard events too (needs the extra "tracking").
        plot: Draw the run's curves to plot.png at its end (needs the extra "plot").
        recorded: Versions, machine and faces of the run whose config.yaml this is; where they differ now, a warning
            says so.
    """

    preset: str = "aminet"
    model: dict[str, Any] = field(default_factory=dict)
    data: DataConfig = field(default_factory=DataConfig)
    val: DataConfig | None = None
    out: str | None = None
    batch_size: int = 32
    accumulate: int = 1
    epochs: float = 150
    steps: int | None = None
    lr: float | None = None
    betas: tuple[float, float] = (0.9, 0.99)
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = 0
    augment: Augment = "full"
    loss: Literal["l1", "l2"] = "l1"
    init: Literal["pytorch", "normal"] = "pytorch"
    gan: GanConfig | None = None
    start_from: str | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    ema: float | None = None
    grad_clip: float | None = None
    seed: int = 0
    workers: int = 2
    device: Literal["auto", "cpu", "cuda"] = "auto"
    channels_last: bool = True
    compile: bool = False
    cuda_graph: bool = False
    backend: str | None = None
    deterministic: bool = False
    val_every: int = 1000
    panel_every: int = 1000
    panel_faces: int = 8
    checkpoint_every: int = 1000
    checkpoint_minutes: float = 15.0
    keep: int = 3
    log_every: int = 50
    resume: str = "auto"
    stop_after_minutes: float | None = None
    tensorboard: bool = False
    plot: bool = False
    recorded: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.gan is None and self.preset in GAN_NETWORKS:
            self.gan = GanConfig()
        if self.gan is not None:
            self.gan.check()
        if self.lr is None:
            self.lr = LR if self.gan is None else GAN_LR
        self.betas = (float(self.betas[0]), float(self.betas[1]))  # YAML has no tuples
        for name in ("batch_size", "accumulate", "keep", "log_every", "panel_faces"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("workers", "warmup_steps", "val_every", "panel_every", "checkpoint_every", "checkpoint_minutes"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        for name in ("steps", "grad_clip", "stop_after_minutes"):
            value = getattr(self, name)
            _require(value is None or value > 0, name, value, "above 0, or null")
        _require(math.isfinite(self.lr) and self.lr > 0, "lr", self.lr, "above 0")
        _require(math.isfinite(self.epochs) and self.epochs > 0, "epochs", self.epochs, "above 0")
        _require(self.ema is None or 0 < self.ema < 1, "ema", self.ema, "between 0 and 1, or null")
        _require(all(0 <= b < 1 for b in self.betas), "betas", self.betas, "in [0, 1)")
        _require(0 <= self.seed < 2**32, "seed", self.seed, "in [0, 2**32)")
        _require(self.backend is None or self.backend in NAMES, "backend", self.backend, f"one of {', '.join(NAMES)}")
        if self.cuda_graph and self.gan is not None:
            raise ValueError("cuda_graph captures the step of one network, and gan has two; leave it out")
        if self.cuda_graph and (self.accumulate != 1 or self.compile):
            raise ValueError(
                "cuda_graph captures a step of one batch and no compiled network: use it with --accumulate 1"
            )
        if self.val is not None and (self.val.size, self.val.scale) != (self.data.size, self.data.scale):
            raise ValueError(
                f"val is {self.val.size} pixels at scale {self.val.scale}, data {self.data.size} at {self.data.scale};"
                f" give --val.size {self.data.size} --val.scale {self.data.scale}"
            )

    def network(self) -> AMINetConfig:
        """The preset with ``model``'s changes; raises ValueError for a preset, field or value that cannot be, and for
        faces of a size that this network does not take.
        """
        try:
            network = _network_of(self.preset).replace(**self.model)
        except TypeError as error:
            raise ValueError(f"model: {error}") from error
        if self.data.size % network.multiple:
            raise ValueError(f"data.size is {self.data.size}; this network takes multiples of {network.multiple}")
        if self.gan is not None:
            self.gan.check_size(self.data.size)
        return network

    @property
    def names_checkpoint(self) -> bool:
        """Whether ``resume`` is the path of a checkpoint."""
        return self.resume not in ("auto", "never")

    def folder(self) -> Path:
        return Path(self.out).expanduser() if self.out else Path("runs") / self.preset

    def total_steps(self, faces: int, world: int) -> int:
        """Optimiser steps of the whole run over ``faces`` training faces on ``world`` processes."""
        if self.steps is not None:
            return self.steps
        return max(1, math.ceil(self.epochs * faces / (self.batch_size * self.accumulate * world)))

    def to_dict(self) -> dict[str, Any]:
        """Plain YAML values, resolved: ``model`` has the whole network, ``out`` the run folder; paths are absolute."""
        values = dataclasses.asdict(self)
        values["betas"] = list(self.betas)
        values["model"] = self.network().to_dict()
        values["out"] = _absolute(str(self.folder()))
        if self.start_from is not None and not shipped(self.start_from):
            values["start_from"] = _absolute(self.start_from)
        if self.gan is not None:
            values["gan"] = {**self.gan.to_dict(), "vgg": _absolute(self.gan.vgg)}
        for faces in filter(None, (values["data"], values["val"])):
            faces |= {name: _absolute(faces[name]) for name in ("root", "cache")}
        return values

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


def _network_of(preset: str) -> AMINetConfig:
    """The network that a preset names, the generator where it is a GAN's; raises ValueError listing all presets."""
    name = GAN_NETWORKS.get(preset, preset)
    if name not in list_configs():
        raise ValueError(f"no preset is called {preset!r}; there are {', '.join([*list_configs(), *GAN_NETWORKS])}")
    return get_config(name)


def _absolute(path: str | None) -> str | None:
    return path and os.path.abspath(os.path.expanduser(path))


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {value!r}; it must be {wanted}")


# What may differ between a run and its resumption without changing any of its numbers. The preset is only a way to
# name the network, and the faces themselves are compared by their fingerprint.
_HARMLESS = {
    "out",
    "workers",
    "val_every",
    "panel_every",
    "panel_faces",
    "checkpoint_every",
    "checkpoint_minutes",
    "keep",
    "log_every",
    "resume",
    "stop_after_minutes",
    "tensorboard",
    "plot",
    "recorded",
    "preset",
    "epochs",
    "steps",
    "val",
    "data",
    "device",
    "cuda_graph",
    "gan.vgg",  # its weights are compared by their fingerprint, too
}


def differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Fields that differ between two `TrainConfig.to_dict` results and matter: dotted name -> (old, new).

    A field that came after the old one was written has its default there.
    """
    flat_old, flat_new = _flatten(TrainConfig().to_dict()) | _flatten(old), _flatten(new)
    pairs = {name: (flat_old.get(name), flat_new.get(name)) for name in {**flat_old, **flat_new}}
    return {n: (a, b) for n, (a, b) in pairs.items() if a != b and not {n, n.split(".")[0]} & _HARMLESS}


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat
