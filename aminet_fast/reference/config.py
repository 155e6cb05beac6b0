"""`AMINetConfig`: every reading of the paper, and every ablation of its Tables I-V, as data."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from .options_file import read_options


@dataclass(frozen=True)
class AMINetConfig:
    """The network's shape. The defaults are the paper's AMINet: 12,610,914 parameters.

    Where the paper leaves a point open, the default is the reading that fits its parameter counts; docs/paper.md gives
    the evidence for each, field by field.

    Args:
        width: Channels c at full size; the four stages have c, 2c, 4c and 8c.
        heads: Attention heads at the four stages; each divides its stage's channels.
        block: What fills a slot: the paper's LGFI, or Restormer transformer blocks (Table II).
        transformer_depth: Restormer blocks a slot when ``block`` is "transformer".
        sa: Keep the global branch, self-attention (Table I, "w/o SA").
        attention_scale: "temperature": q and k L2-normalised, one learned temperature a head; "sqrt": Eq. 5 to the
            letter, q k^T / sqrt(H*W).
        local: The local branch: the paper's RDFE, a feed-forward net in its place (Table III), or none (Table I).
        ffn_expansion: Hidden channels of a feed-forward net, as a multiple of its input's.
        ffn_depth: Feed-forward nets in a row where they stand in for RDFE.
        rdfe_kernels: Kernel sizes of RDFE's depthwise branches; one alone is Table IV's "single path".
        dw_twice: Filter each branch again, with new weights, after the attention unit's product (text after Eq. 9).
        attention_unit: "pooled": one c-vector an image; "pixel": a map, one 1x1 convolution; "none" (Table IV).
        frm: Keep the feature refinement module (Table IV, "w/o FRM").
        frm_convs: 3x3 convolutions in it before the hourglass.
        hourglass_depth: Times the hourglass halves its input.
        hourglass_width: Channels inside the hourglass.
        skaf: Where SKAF weighs the branches: in LGFI and EDFF ("both"), only in EDFF (Table I, "w/o SKAF"), or nowhere
            (Table V, first row). Elsewhere the branches are added.
        skaf_kernels: Kernel sizes of SKAF's convolutions (Table V).
        skaf_conv: Their kind: c->c, c->c/2, or depthwise.
        skaf_pools: Pools of SKAF (Table V); without any, the gates are the convolutions' own channels.
        skaf_pool_axis: Pool over the channels (two maps) or over the pixels (channel vectors).
        skaf_mix: Mix the pooled descriptors by a convolution before the sigmoid.
        lgfi_merge: How LGFI's two branches enter SKAF: added, or concatenated and reduced by a 1x1 convolution.
        down: Halving: a strided 3x3 convolution, or pixel unshuffle and a 1x1 convolution.
        up: Doubling: 1x1 convolution and pixel shuffle, a 2x2 transposed convolution, or nearest and a 3x3 convolution;
            each followed by a PReLU.

    Raises:
        TypeError, ValueError: when a field holds what it cannot; the message names the field.
    """

    width: int = 24
    heads: tuple[int, ...] = (1, 2, 4, 8)
    block: Literal["lgfi", "transformer"] = "lgfi"
    transformer_depth: int = 8
    sa: bool = True
    attention_scale: Literal["temperature", "sqrt"] = "temperature"
    local: Literal["rdfe", "ffn", "none"] = "rdfe"
    ffn_expansion: float = 2.66
    ffn_depth: int = 4
    rdfe_kernels: tuple[int, ...] = (3, 5, 7)
    dw_twice: bool = True
    attention_unit: Literal["pooled", "pixel", "none"] = "pooled"
    frm: bool = True
    frm_convs: int = 2
    hourglass_depth: int = 1
    hourglass_width: int = 64
    skaf: Literal["both", "edff", "none"] = "both"
    skaf_kernels: tuple[int, ...] = (5, 7)
    skaf_conv: Literal["full", "half", "depthwise"] = "full"
    skaf_pools: tuple[str, ...] = ("avg", "max")
    skaf_pool_axis: Literal["channel", "spatial"] = "channel"
    skaf_mix: bool = True
    lgfi_merge: Literal["sum", "concat"] = "sum"
    down: Literal["conv", "unshuffle"] = "conv"
    up: Literal["shuffle", "transposed", "nearest"] = "shuffle"

    def __post_init__(self) -> None:
        for name in ("heads", "rdfe_kernels", "skaf_kernels", "skaf_pools"):
            value = getattr(self, name)
            if isinstance(value, list):  # YAML and JSON have no tuples
                object.__setattr__(self, name, tuple(value))
        self._check_types()
        self._check_values()

    def _check_types(self) -> None:
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value, hint = getattr(self, field.name), hints[field.name]
            if get_origin(hint) is Literal:
                if value not in get_args(hint):
                    raise ValueError(
                        f"{field.name} is {value!r}; it takes one of {', '.join(map(repr, get_args(hint)))}"
                    )
            elif get_origin(hint) is tuple:
                kind = get_args(hint)[0]
                if not isinstance(value, tuple) or any(type(v) is not kind for v in value):
                    raise TypeError(f"{field.name} is {value!r}; it takes a list of {kind.__name__}")
            elif hint is float:
                if isinstance(value, bool) or not isinstance(value, (int, float)):
                    raise TypeError(f"{field.name} is {value!r}; it takes a number")
                object.__setattr__(self, field.name, float(value))
            elif type(value) is not hint:
                raise TypeError(f"{field.name} is {value!r}; it takes {hint.__name__}")

    def _check_values(self) -> None:
        for name, least in (("width", 1), ("transformer_depth", 1), ("ffn_depth", 1), ("hourglass_width", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not 1 <= self.hourglass_depth <= 4:
            raise ValueError(f"hourglass_depth is {self.hourglass_depth}; it must be 1 to 4")
        if not 1 <= self.frm_convs <= 3:
            raise ValueError(f"frm_convs is {self.frm_convs}; it must be 1 to 3")
        if not self.ffn_expansion * self.width >= 1:
            raise ValueError(f"ffn_expansion is {self.ffn_expansion}; the hidden layer would have no channel")
        if len(self.heads) != 4:
            raise ValueError(f"heads is {self.heads}; it takes four numbers, one a stage")
        for stage, heads in enumerate(self.heads):
            channels = self.width << stage
            if heads < 1 or channels % heads:
                raise ValueError(f"heads[{stage}] is {heads}; it must divide that stage's {channels} channels")
        for name in ("rdfe_kernels", "skaf_kernels"):
            sizes = getattr(self, name)
            if any(k < 1 or k % 2 == 0 for k in sizes) or len(set(sizes)) != len(sizes):
                raise ValueError(f"{name} is {sizes}; kernel sizes are odd and differ")
        if not self.rdfe_kernels:
            raise ValueError('rdfe_kernels is empty; RDFE needs a branch (local="none" leaves RDFE out)')
        if set(self.skaf_pools) - {"avg", "max"} or len(set(self.skaf_pools)) != len(self.skaf_pools):
            raise ValueError(f"skaf_pools is {self.skaf_pools}; it takes 'avg', 'max', both or neither")
        if not self.sa and self.local == "none" and self.block == "lgfi":
            raise ValueError('sa is False and local is "none": LGFI would have no branch')
        if self.skaf_conv == "half" and self.width % 2:
            raise ValueError(f'skaf_conv is "half" and width is {self.width}; it must be even')

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels at full, half, quarter and eighth size."""
        return self.width, 2 * self.width, 4 * self.width, 8 * self.width

    @property
    def multiple(self) -> int:
        """What H and W must be divisible by: the stages halve three times, the hourglass inside them again."""
        hourglass = self.block == "lgfi" and self.local == "rdfe" and self.frm
        return 8 << (self.hourglass_depth if hourglass else 0)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, strings and numbers, as YAML and JSON hold them."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> AMINetConfig:
        """The inverse of `to_dict`; fields left out have their defaults, an unknown one raises ValueError."""
        unknown = sorted(set(values) - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(f"AMINetConfig has no field {', '.join(unknown)}")
        return cls(**values)

    def replace(self, **changes: Any) -> AMINetConfig:
        """A copy with some fields changed."""
        return self.from_dict({**self.to_dict(), **changes})

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_file(cls, path: str | Path) -> AMINetConfig:
        """Read a .yaml, .yml or .json file; raises ValueError when it holds no mapping, or a field twice."""
        values = read_options(path)
        values.pop("expects", None)  # stands beside the network's fields in the config.json of weights
        return cls.from_dict(values)
