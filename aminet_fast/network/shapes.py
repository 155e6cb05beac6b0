"""The configuration of an AMINet, read off the shapes of its tensors where they tell it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..reference.config import AMINetConfig
from .state_dicts import abridged, optional

Shapes = dict[str, tuple[int, ...]]


class UntoldError(ValueError):
    """The shapes fit no configuration, or more than one; the message says which field they do not tell."""


def config_of(state: Mapping[str, Tensor]) -> AMINetConfig:
    """The one configuration whose AMINet has these keys and shapes.

    Raises UntoldError where there is none, or where networks with other numbers have the same shapes.
    """
    shapes: Shapes = {key: tuple(value.shape) for key, value in state.items()}
    try:
        config = AMINetConfig.from_dict(_fields(shapes))
        with torch.device("meta"):
            built = {key: tuple(value.shape) for key, value in reference.AMINet(config).state_dict().items()}
    except UntoldError:
        raise
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UntoldError("its tensors' shapes are no AMINet's") from error
    differing = {key for key in built.keys() | shapes.keys() if built.get(key) != shapes.get(key)}
    if named := sorted(key for key in differing if key in shapes or not optional(key)):
        raise UntoldError(f"its tensors' shapes are no AMINet's ({', '.join(abridged(named))})")
    return config


def _fields(shapes: Shapes) -> dict[str, Any]:
    width = shapes["head.weight"][0]
    fields: dict[str, Any] = {"width": width}
    fields["down"] = "conv" if "down.0.weight" in shapes else "unshuffle"
    if "up.0.1.bias" in shapes:  # what follows Upsample, which has no parameters
        fields["up"] = "nearest"
    else:
        fields["up"] = "shuffle" if shapes["up.0.0.weight"][2:] == (1, 1) else "transposed"
    if "enc.0.0.norm1.weight" in shapes:
        fields |= {"block": "transformer", "transformer_depth": _count(shapes, "enc.0.")}
        fields |= _heads(shapes, "0.sa") | {"ffn_expansion": _expansion(shapes, width, "0.ffn")}
    else:
        fields |= _lgfi(shapes, width)
    return fields | _skaf(shapes, width)


def _lgfi(shapes: Shapes, width: int) -> dict[str, Any]:
    fields: dict[str, Any] = {"sa": "enc.0.sa.qkv.weight" in shapes}
    if fields["sa"]:
        fields |= _heads(shapes, "sa")
    if "enc.0.merge.weight" in shapes:
        fields["lgfi_merge"] = "concat"
    if "enc.0.rdfe.layers.0.expand.weight" in shapes:
        depth, expansion = _count(shapes, "enc.0.rdfe.layers."), _expansion(shapes, width, "rdfe.layers.0")
        return fields | {"local": "ffn", "ffn_depth": depth, "ffn_expansion": expansion}
    if "enc.0.rdfe.fuse.weight" not in shapes:
        return fields | {"local": "none"}
    unit = "pooled" if "enc.0.rdfe.au.expand.weight" in shapes else "pixel"
    fields |= {
        "rdfe_kernels": _kernels(shapes, "enc.0.rdfe.dw1."),
        "dw_twice": "enc.0.rdfe.dw2.0.weight" in shapes,
        "attention_unit": unit if "enc.0.rdfe.au.reduce.weight" in shapes else "none",
        "frm": "enc.0.rdfe.frm.bn.0.weight" in shapes,
    }
    if fields["frm"]:
        fields |= {
            "frm_convs": _count(shapes, "enc.0.rdfe.frm.conv."),
            "hourglass_depth": _count(shapes, "enc.0.rdfe.frm.hourglass.b1."),
            "hourglass_width": shapes["enc.0.rdfe.frm.hourglass.plus.conv.weight"][0],
        }
    return fields


def _skaf(shapes: Shapes, width: int) -> dict[str, Any]:
    if "edff.2.reduce.weight" not in shapes:  # no SKAF has no keys
        return {"skaf": "none"}
    # EDFF 2 and stage 0 work at full size, so both SKAFs have `width` channels.
    here = "edff.2.skaf."
    transformer = "enc.0.0.norm1.weight" in shapes  # has no use for another
    fields: dict[str, Any] = {
        "skaf": "both" if transformer or any(key.startswith("enc.0.skaf.") for key in shapes) else "edff",
        "skaf_kernels": _kernels(shapes, f"{here}convs."),
    }
    features = width
    if fields["skaf_kernels"]:
        out, of_each = shapes[f"{here}convs.0.weight"][:2]
        fields["skaf_conv"] = "depthwise" if of_each < width else "half" if out < width else "full"
        features = out * len(fields["skaf_kernels"])
    mix = shapes.get(f"{here}mix.weight")
    if mix == (2, 2, 7, 7):
        return fields
    if mix == (2 * width, 2 * features, 1, 1):
        return fields | {"skaf_pool_axis": "spatial"}
    raise UntoldError("shapes do not tell its skaf_pools, skaf_pool_axis and skaf_mix")


def _heads(shapes: Shapes, attention: str) -> dict[str, Any]:
    stages = ("enc.0", "enc.1", "enc.2", "mid.0")
    if f"enc.0.{attention}.temperature" not in shapes:
        raise UntoldError('shapes do not tell its heads where attention_scale is "sqrt"')
    return {"heads": tuple(shapes[f"{stage}.{attention}.temperature"][0] for stage in stages)}


def _expansion(shapes: Shapes, width: int, net: str) -> float:
    """A number that gives every stage its hidden channels, the default where that does."""
    hidden = [shapes[f"{stage}.{net}.reduce.weight"][1] for stage in ("enc.0", "enc.1", "enc.2", "mid.0")]
    channels = [width << stage for stage in range(4)]
    if [int(c * AMINetConfig.ffn_expansion) for c in channels] == hidden:
        return AMINetConfig.ffn_expansion
    least = max(h / c for h, c in zip(hidden, channels, strict=True))
    return (least + min((h + 1) / c for h, c in zip(hidden, channels, strict=True))) / 2


def _count(shapes: Shapes, start: str) -> int:
    """How many modules a list has."""
    return len({key.removeprefix(start).split(".")[0] for key in shapes if key.startswith(start)})


def _kernels(shapes: Shapes, start: str) -> tuple[int, ...]:
    return tuple(shapes[f"{start}{place}.weight"][-1] for place in range(_count(shapes, start)))
