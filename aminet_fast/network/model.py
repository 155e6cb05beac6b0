"""`AMINet` as people use it: the network with named configurations, saving, loading, and help with image sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .. import reference
from ..pretrained import CONFIG, WEIGHTS, list_pretrained, shipped
from ..reference.config import AMINetConfig
from ..reference.options_file import read_options
from .casting import using
from .checkpoint import read_checkpoint
from .edges import edge_copies
from .modules import accelerate
from .presets import get_config

PREFIXES = ("module.", "_orig_mod.")  # put before each key by DataParallel/DDP, and by torch.compile


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

    Raises ValueError for an unknown name of either.
    """

    def __init__(self, config: AMINetConfig | str | None = None, backend: str | None = None) -> None:
        super().__init__(get_config(config) if isinstance(config, str) else config)
        if backend != "reference":
            accelerate(self, backend=backend)

    def forward(self, x: Tensor) -> Tensor:
        """As the class says; under autocast on CUDA devices with one cast for the weights of torch's convolutions."""
        copies = edge_copies(self, x)
        if copies is None:
            return super().forward(x)
        with using(copies):
            return super().forward(x)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As `nn.Module.load_state_dict`, and also takes the keys of a DataParallel, DDP or compiled model.

        Raises RuntimeError naming every key that misses, is unknown, or has another shape; with ``strict=False`` the
        first two are returned, not raised.
        """
        state = strip_prefixes(state_dict)
        own = self.state_dict()
        shapes = [
            f"{k}: {list(v.shape)} given, {list(own[k].shape)} wanted"
            for k, v in state.items()
            if k in own and v.shape != own[k].shape
        ]
        missing = [k for k in own if k not in state] if strict else []
        unknown = [k for k in state if k not in own] if strict else []
        if shapes or missing or unknown:
            raise RuntimeError(_mismatch(missing, unknown, shapes, len(own), self.config))
        return super().load_state_dict(state, strict=strict, assign=assign)

    def _save_pretrained(self, save_directory: Path) -> None:
        state = {k: v.detach().contiguous() for k, v in self.state_dict().items()}
        save_file(state, save_directory / WEIGHTS, metadata={"format": "pt"})
        (save_directory / CONFIG).write_text(self.config.to_json(), encoding="utf-8")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> AMINet:
        """An AMINet in eval mode, float32, on the CPU.

        Args:
            pretrained_model_name_or_path: "default" or another name of `list_pretrained()`, weights that come with the
                package and need no network; a folder of `save_pretrained`; or a repository of the Hugging Face Hub.
            options: `backend`, `map_location`, `strict`, and those of `huggingface_hub.PyTorchModelHubMixin`.

        Raises FileNotFoundError or ValueError where the folder is incomplete or not an AMINet's.
        """
        folder = shipped(pretrained_model_name_or_path) or pretrained_model_name_or_path
        return super().from_pretrained(folder, **options)

    @classmethod
    def _from_pretrained(  # type: ignore[override]
        cls,
        *,
        model_id: str,
        config: dict[str, Any] | AMINetConfig | None = None,
        map_location: str | torch.device = "cpu",
        strict: bool = True,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        backend: str | None = None,
    ) -> AMINet:
        if config is None:
            raise FileNotFoundError(f"{model_id} has no {CONFIG}; save_pretrained writes one beside the weights")
        if isinstance(config, dict):
            config = AMINetConfig.from_dict(config)
        file = str(Path(model_id) / WEIGHTS)
        if not Path(model_id).is_dir():
            file = hf_hub_download(
                model_id,
                WEIGHTS,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
        model = cls(config, backend)
        model.load_state_dict(read_safetensors(file), strict=strict)
        return model.to(map_location).eval()


def strip_prefixes(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The same tensors under the plain module's keys."""
    state = dict(state_dict)
    while state and (prefix := next((p for p in PREFIXES if all(k.startswith(p) for k in state)), None)):
        state = {k.removeprefix(prefix): v for k, v in state.items()}
    return state


def _mismatch(missing: list[str], unknown: list[str], shapes: list[str], total: int, config: AMINetConfig) -> str:
    lines = [f"these weights are not those of this AMINet (width {config.width}, {total} keys):"]
    for title, keys in (("missing", missing), ("unknown", unknown), ("of another shape", shapes)):
        if keys:
            lines.append(f"  {len(keys)} {title}:")
            lines += [f"    {key}" for key in keys]
    if shapes:
        lines.append("  Build the AMINet with the configuration that the weights were trained with.")
    return "\n".join(lines)


def read_safetensors(file: str | Path) -> dict[str, Tensor]:
    """All tensors of a .safetensors file; raises ValueError when it is cut short or not one, FileNotFoundError."""
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is no readable safetensors file ({error}); copy or download it again") from error


def load_model(path: str | Path, device: str | torch.device = "cpu", backend: str | None = None) -> AMINet:
    """An AMINet in eval mode from whatever training left behind.

    Args:
        path: "default" or another of `list_pretrained()`; a run folder (its ``best``, else its ``last``), a folder of
            `save_pretrained`, its .safetensors file, or a training checkpoint (.pt; its averaged weights where it has
            them).
        device: Where to put it.
        backend: As `AMINet` takes it.

    Raises:
        FileNotFoundError: nothing of that kind is there; the message says what was looked for.
        ValueError: the file is cut short, or is something else.
    """
    path = Path(shipped(path) or path)
    if path.is_dir():
        for folder in (path, path / "best", path / "last"):
            if (folder / WEIGHTS).is_file():
                return _from_folder(folder / WEIGHTS, device, backend)
        raise FileNotFoundError(
            f"{path} holds no weights: looked for {WEIGHTS} in it, in best/ and in last/ beneath it"
        )
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; weights are {_names()}a run folder, a .safetensors or a .pt file")
    if path.suffix == ".safetensors":
        return _from_folder(path, device, backend)
    return _from_checkpoint(path, device, backend)


def _names() -> str:
    return "".join(f"{name}, " for name in list_pretrained())


def _from_folder(weights: Path, device: str | torch.device, backend: str | None) -> AMINet:
    file = weights.with_name(CONFIG)
    if not file.is_file():
        raise FileNotFoundError(f"{weights} has no {CONFIG} beside it, which says how wide the network is")
    model = AMINet(_config_of(file, read_options(file)), backend)
    model.load_state_dict(read_safetensors(weights))
    return model.to(device).eval()


def _config_of(file: Path, values: object) -> AMINetConfig:
    """The configuration that came with weights; raises ValueError naming the file when it is none."""
    try:
        if not isinstance(values, dict):
            raise TypeError("no mapping of its fields")
        return AMINetConfig.from_dict(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} holds no configuration of an AMINet ({error})") from error


def _from_checkpoint(path: Path, device: str | torch.device, backend: str | None) -> AMINet:
    checkpoint = read_checkpoint(path, needs=("model_config", "model", "ema"))
    model = AMINet(_config_of(path, checkpoint["model_config"]), backend)
    model.load_state_dict(checkpoint.get("ema") or checkpoint["model"])
    return model.to(device).eval()


def pad_to_multiple(x: Tensor, multiple: int = 16) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Grow x to the right and below, by its edge pixels, until H and W are divisible by `multiple`.

    x [N, C, H, W] -> ([N, C, H', W'], crop), where ``crop(y)`` cuts a [N, C', H', W'] back to H, W::

        x, crop = pad_to_multiple(x, model.config.multiple)
        y = crop(model(x))
    """
    h, w = x.shape[-2:]
    padded = F.pad(x, (0, -w % multiple, 0, -h % multiple), mode="replicate")
    return padded, lambda y: y[..., :h, :w]
