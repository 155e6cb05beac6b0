"""Everything a run carries from step to step, and how it goes into a checkpoint and comes back."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from torch import Tensor, nn

from ..adversarial import PerceptualLoss
from ..data import FaceDataset
from ..graphs.training import GraphedStep, graph_step
from ..network.expects import Expects
from ..network.model import AMINet
from . import rng
from .config import TrainConfig
from .objective import LOSSES, build_objective
from .optim import LossScale, Shadow, build_optimizer, plain_state, restore


class Session:
    """Network, average, objective, optimiser and counters: as new, or as they were at the checkpoint ``start``.

    Args:
        config: The run's; it says how all of these are built.
        accelerator: The run's.
        faces: The training faces.
        start: A checkpoint, as `state` gave it; None: a new run.
        weights: Of the network at the start of a new run; None: as `AMINet` draws them.
        perceptual: What `load_perceptual` gave.
        licence: Terms of `weights`.
    """

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Accelerator,
        faces: FaceDataset,
        start: dict[str, Any] | None,
        weights: dict[str, Tensor] | None = None,
        perceptual: PerceptualLoss | None = None,
        licence: str | None = None,
    ) -> None:
        self.config, self.accelerator, self.faces = config, accelerator, faces
        self.world: int = accelerator.num_processes
        self.total = config.total_steps(len(faces), self.world)
        self.faces_a_step = config.batch_size * config.accumulate * self.world
        self.step, self.seconds, self.best = 0, 0.0, -math.inf
        self.val_faces: str | None = None  # fingerprint of the faces that `best` was scored on
        self.loss_sum, self.loss_count = 0.0, 0  # since the last regular row of metrics.csv
        self.owed = False  # the validation of this step was broken off, and its row is not written
        self._graph: GraphedStep | None = None
        self._clock = time.monotonic()

        set_seed(config.seed, deterministic=config.deterministic)
        torch.backends.cudnn.benchmark = not config.deterministic
        self.expects = expects_of_run(config, start, licence)
        self.net = self._network(weights if start is None else start["model"])
        self.shadow = Shadow(self.net, config.ema)
        if config.compile:
            self.net.compile()  # in place: the keys of the state dict stay as they are
        assert config.lr is not None  # TrainConfig fills it in
        optimizer = build_optimizer(self.net, config.lr, config.betas)
        # DDP copies the first process's BatchNorm statistics to the others before each step, so that its network is
        # the whole state; each process still normalises by its own batch.
        model, prepared = accelerator.prepare(self.net.train(), optimizer)
        self.optimizer: torch.optim.Optimizer = prepared.optimizer
        self.objective = build_objective(config, accelerator, model, prepared, perceptual)
        self.part_sums = [0.0] * len(self.objective.parts)  # as loss_sum
        self.scale = LossScale(accelerator, self.net)
        if start is not None:
            self._restore(start)

    def _network(self, weights: dict[str, Tensor] | None) -> AMINet:
        net = AMINet(self.config.network(), self.config.backend, self.expects)
        if self.config.init == "normal":
            init_normal(net)
        if weights is not None:
            net.load_state_dict(weights)
        net.to(self.accelerator.device)
        return net.to(memory_format=torch.channels_last) if self.config.channels_last else net

    def _restore(self, start: dict[str, Any]) -> None:
        restore(self.optimizer, start["optimizer"], self.config.betas)
        if self.config.ema is not None:
            self.shadow.average.load_state_dict(start["ema"] or start["model"])
        for name in ("step", "seconds", "best", "loss_sum", "loss_count"):
            setattr(self, name, start[name])
        # What has a default here is not in every checkpoint of this format.
        sums = start.get("part_sums", [])  # of another length where the objective changed
        if len(sums) == len(self.part_sums):
            self.part_sums = sums
        else:  # means of another objective's losses
            self.loss_sum, self.loss_count = 0.0, 0
        self.objective.restore(start.get("gan"))
        self.val_faces, self.owed = start.get("val_faces"), start.get("owed", False)
        self.scale.restore(start.get("scaler"))
        states = start["rng"]
        rng.restore(states[self.accelerator.process_index % len(states)])

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds. Every process has to call it: all their random generators are in it."""
        return {
            "step": self.step,
            "config": self.config.to_dict(),
            "model_config": self.config.network().to_dict(),
            "expects": self.expects.to_dict(),
            "model": self.net.state_dict(),
            "optimizer": plain_state(self.optimizer),
            "gan": self.objective.state(),
            "scaler": self.scale.state(),
            "ema": self.shadow.average.state_dict() if self.config.ema is not None else None,
            "rng": gather_object([rng.capture()]),
            "faces": self.faces.fingerprint,
            "world": self.world,
            "seconds": self.seconds,
            "best": self.best,
            "val_faces": self.val_faces,
            "loss_sum": self.loss_sum,
            "part_sums": self.part_sums,
            "loss_count": self.loss_count,
            "owed": self.owed,
        }

    def graphed_step(self, pictures: list[Tensor]) -> Tensor:
        """The pixel loss of a whole step on [input, hr], as one CUDA graph, which the first call captures."""
        if self._graph is None:
            config = self.config
            self._graph = graph_step(
                self.net,
                self.optimizer,
                LOSSES[config.loss],
                pictures,
                autocast={"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.precision),
                scaler=self.scale.scaler,
                max_norm=config.grad_clip,
            )
        return self._graph(*pictures)

    def is_finite(self) -> bool:
        """Whether every weight and statistic is a number; a gradient can overflow under a finite loss."""
        values = [*self.net.state_dict().values(), *self.objective.tensors()]
        values = [v for v in values if v.is_floating_point()]
        return bool(torch.stack([v.isfinite().all() for v in values]).all())

    def tick(self) -> float:
        """Seconds since the last call, added to the run's time."""
        now = time.monotonic()
        passed, self._clock = now - self._clock, now
        self.seconds += passed
        return passed


def expects_of_run(config: TrainConfig, start: dict[str, Any] | None, licence: str | None) -> Expects:
    """What the weights of a run expect: what its data settings do to faces, on the terms that its start came with.

    The settings say nothing of how faces lie in their pictures.
    """
    if start is not None:  # a checkpoint from before weights said it has the recipe
        before = Expects.from_dict(start.get("expects", {}))
        return dataclasses.replace(before, scale=config.data.scale)
    return Expects(scale=config.data.scale, licence=licence)


def init_normal(model: nn.Module, std: float = 0.02) -> None:
    """The SPARNet line's start: convolutions N(0, std), BatchNorm N(1, std), biases zero."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, 0.0, std)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, std)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
