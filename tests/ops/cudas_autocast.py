"""What autocast does on CUDA devices, on the CPU, whose list of functions is another one."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class CudasAutocast(TorchFunctionMode):
    """Inside of torch.autocast("cpu", ...), for the functions that the reference calls."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (F.layer_norm, F.interpolate, Tensor.softmax):  # float32 on CUDA devices, left alone on the CPU
            return func(*_in_float32(args), **kwargs)
        if func is F.pad:  # the other way round
            with torch.autocast("cpu", enabled=False):
                return func(*args, **kwargs)
        return func(*args, **kwargs)


def _in_float32(values: Any) -> list[Any]:
    return [v.float() if isinstance(v, Tensor) and v.dtype in (torch.bfloat16, torch.float16) else v for v in values]
