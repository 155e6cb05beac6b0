"""AMINet face super-resolution, fast and trainable.

``from aminet_fast import AMINet`` is all a training loop needs. Importing the package loads neither torch nor the
compiled extension; both come with the first name that needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"
__homepage__ = ""  # where the project is hosted, for what needs an address; empty while that is nowhere

_HOME = {
    "AMINet": "network.model",
    "AMINetConfig": "reference.config",
    "Expects": "network.expects",
    "accelerate": "network.modules",
    "decelerate": "network.modules",
    "freeze": "network.freezing",
    "get_config": "network.presets",
    "graph": "graphs",
    "graph_step": "graphs",
    "list_configs": "network.presets",
    "list_pretrained": "pretrained",
    "load_model": "network.model",
    "pad_to_multiple": "network.model",
    "restore_photograph": "restoration",
    "unfreeze": "network.freezing",
    "upscale_images": "restoration",
}
__all__ = [*_HOME, "__version__"]

if TYPE_CHECKING:
    from .graphs import graph as graph
    from .graphs.training import graph_step as graph_step
    from .network.expects import Expects as Expects
    from .network.freezing import freeze as freeze
    from .network.freezing import unfreeze as unfreeze
    from .network.model import AMINet as AMINet
    from .network.model import load_model as load_model
    from .network.model import pad_to_multiple as pad_to_multiple
    from .network.modules import accelerate as accelerate
    from .network.modules import decelerate as decelerate
    from .network.presets import get_config as get_config
    from .network.presets import list_configs as list_configs
    from .pretrained import list_pretrained as list_pretrained
    from .reference.config import AMINetConfig as AMINetConfig
    from .restoration import restore_photograph as restore_photograph
    from .restoration import upscale_images as upscale_images


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
