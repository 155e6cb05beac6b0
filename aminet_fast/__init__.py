"""AMINet face super-resolution, fast and trainable.

``from aminet_fast import AMINet`` is all a training loop needs. Importing the package loads neither torch nor the
compiled extension; both come with the first name that needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "AMINet": "model",
    "AMINetConfig": "config",
    "accelerate": "modules",
    "decelerate": "modules",
    "freeze": "freezing",
    "get_config": "presets",
    "graph": "graphs",
    "graph_step": "graph_training",
    "list_configs": "presets",
    "list_pretrained": "pretrained",
    "load_model": "model",
    "pad_to_multiple": "model",
    "unfreeze": "freezing",
    "upscale_images": "upscale",
}
__all__ = [*_HOME, "__version__"]

if TYPE_CHECKING:
    from .config import AMINetConfig as AMINetConfig
    from .freezing import freeze as freeze
    from .freezing import unfreeze as unfreeze
    from .graph_training import graph_step as graph_step
    from .graphs import graph as graph
    from .model import AMINet as AMINet
    from .model import load_model as load_model
    from .model import pad_to_multiple as pad_to_multiple
    from .modules import accelerate as accelerate
    from .modules import decelerate as decelerate
    from .presets import get_config as get_config
    from .presets import list_configs as list_configs
    from .pretrained import list_pretrained as list_pretrained
    from .upscale import upscale_images as upscale_images


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
