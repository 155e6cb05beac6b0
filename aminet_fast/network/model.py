"""`AMINet` as people use it: the network with named configurations, saving, loading, and help with image sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor

from .. import reference
from ..pretrained import shipped, write_weights
from ..reference.config import AMINetConfig
from .casting import using
from .edges import edge_copies
from .expects import Expects
from .locate import download, find_weights, is_repository
from .modules import accelerate
from .presets import get_config
from .state_dicts import mismatch, strip_wrappers
from .weights import Weights, read_weights


class AMINet(
    reference.AMINet,
    PyTorchModelHubMixin,
    library_name="aminet_fast",
    tags=["face-super-resolution"],
    paper_url="https://arxiv.org/abs/2409.00591",
):
    """AMINet: bicubic-upsampled faces in, super-resolved faces out.

    [N, 3, H, W] in [-1, 1] -> [N, 3, H, W], about [-1, 1] (not clamped); H and W divisible by ``config.multiple`` (16).
    Under autocast all between is in its dtype. The output is the input plus what the network learned, in the input's
    dtype as in plain PyTorch: float32 keeps levels of the picture that bfloat16 would round.

    Args:
        config: An `AMINetConfig`, or the name of one (`list_configs()`), or None for the paper's AMINet.
        backend: What runs its operators: "auto", "cpu", "triton", "cuda", or "reference" for the plain modules alone;
            None: AMINET_FAST_BACKEND when it runs, else "auto". `accelerate` and `decelerate` change it later. The
            state dict is the same for all.
        expects: What its weights expect of a picture; None: the defaults of `Expects`.

    Raises ValueError for an unknown name of either.
    """

    def __init__(
        self,
        config: AMINetConfig | str | None = None,
        backend: str | None = None,
        expects: Expects | None = None,
    ) -> None:
        super().__init__(get_config(config) if isinstance(config, str) else config)
        self.expects = Expects() if expects is None else expects
        if backend != "reference":
            accelerate(self, backend=backend)

    def forward(self, x: Tensor) -> Tensor:
        """As the class says; under autocast on CUDA devices with one cast for the weights of torch's convolutions."""
        copies = edge_copies(self, x)
        if copies is None:
            return super().forward(x)
        with using(copies):
            return super().forward(x)

    def __prepare_scriptable__(self) -> NoReturn:
        """Asked for by torch.jit.script, whose language is too small for the configurations."""
        raise NotImplementedError(
            "torch.jit.script cannot compile an AMINet: use torch.jit.trace(model.eval(), x), or torch.export.export"
        )

    @property
    def expects(self) -> Expects:
        """What its weights expect of a picture, saved with them; assign another `Expects` where that is wrong."""
        return self.__dict__.get("_expects", Expects())  # a pickle from before has none

    @expects.setter
    def expects(self, value: Expects) -> None:
        if not isinstance(value, Expects):
            raise TypeError(f"expects is {value!r}; it takes an aminet_fast.Expects")
        self.__dict__["_expects"] = value

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As `nn.Module.load_state_dict`, and also takes the keys of a DataParallel, DDP, averaged or compiled model.

        Raises RuntimeError counting the keys that miss, are unknown, or have another shape, with the first of them;
        with ``strict=False`` the first two are returned, not raised.
        """
        own = self.state_dict()
        state = dict(state_dict) if state_dict.keys() == own.keys() else strip_wrappers(state_dict)
        if (reason := mismatch(state, own, strict, self.config.width)) is not None:
            raise RuntimeError(reason)
        return super().load_state_dict(state, strict=strict, assign=assign)

    def _save_pretrained(self, save_directory: Path) -> None:
        write_weights(self, {k: v.detach().contiguous() for k, v in self.state_dict().items()}, save_directory)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # no option that an AMINet has no use for
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        config: AMINetConfig | dict[str, Any] | None = None,
        map_location: str | torch.device = "cpu",
        strict: bool = True,
        backend: str | None = None,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> AMINet:
        """An AMINet in eval mode, float32.

        Args:
            pretrained_model_name_or_path: What `load_model` takes, or a repository of the Hugging Face Hub, as
                "owner/name". Where a folder here is called as the owner, that is a path, but with a ``revision``.
            config: The network's, in place of the one that came with the weights.
            map_location: Where to put it.
            strict: As in `load_state_dict`.
            backend: As `AMINet` takes it.
            revision, cache_dir, force_download, local_files_only, token: As `huggingface_hub.hf_hub_download` takes
                them, for a repository.

        Raises FileNotFoundError or ValueError where nothing is there, or no AMINet's.
        """
        name = pretrained_model_name_or_path
        if isinstance(config, dict):
            config = AMINetConfig.from_dict({k: v for k, v in config.items() if k != "expects"})
        if is_repository(name) or (revision is not None and not shipped(name) and not Path(name).exists()):
            file = download(
                str(name),
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
        else:
            file = find_weights(name)
        return cls._of(read_weights(file, config), map_location, backend, strict)

    @classmethod
    def _of(
        cls, weights: Weights, device: str | torch.device, backend: str | None = None, strict: bool = True
    ) -> AMINet:
        model = cls(weights.config, backend)
        model.expects = weights.expects
        model.load_state_dict(weights.state, strict=strict)
        return model.to(device).eval()


def load_model(path: str | Path, device: str | torch.device = "cpu", backend: str | None = None) -> AMINet:
    """An AMINet in eval mode from whatever training left behind; nothing is downloaded.

    Args:
        path: "default" or another of `list_pretrained()`; a run folder (its ``best``, else its ``last``), a folder of
            `save_pretrained`, its .safetensors file, or a training checkpoint (.pt; its averaged weights where it has
            them). Also a state dict of other programs that holds an AMINet's keys (.pt, .pth, .ckpt: plain, or under
            "params_ema", "params", "state_dict" or "model", with or without a prefix), when config.json lies beside it
            or its shapes tell the network.
        device: Where to put it.
        backend: As `AMINet` takes it.

    Raises:
        FileNotFoundError: nothing of that kind is there; the message says what was looked for.
        ValueError: the file is cut short, or is something else.
        RuntimeError: its tensors are not those of the configuration that came with them.
    """
    return AMINet._of(read_weights(find_weights(path)), device, backend)


def pad_to_multiple(x: Tensor, multiple: int = 16) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Grow x to the right and below, by its edge pixels, until H and W are divisible by `multiple`.

    x [N, C, H, W] -> ([N, C, H', W'], crop), where ``crop(y)`` cuts a [N, C', H', W'] back to H, W::

        x, crop = pad_to_multiple(x, model.config.multiple)
        y = crop(model(x))
    """
    h, w = x.shape[-2:]
    padded = F.pad(x, (0, -w % multiple, 0, -h % multiple), mode="replicate")
    return padded, lambda y: y[..., :h, :w]
