"""What weights expect of a picture: stored beside them, and refused where it contradicts what they are given."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from .runner import Runner, network_of


@dataclass(frozen=True)
class Template:
    """Where the eyes of an aligned face lie, as shares of the picture's side, both in (0, 1)."""

    eye_distance: float
    eye_height: float

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _share(f"template.{field.name}", getattr(self, field.name)))


@dataclass(frozen=True)
class Expects:
    """What weights are for. Weights that say nothing expect the defaults.

    Args:
        scale: How many times the network's work enlarges an LR picture; at least 1.
        input: What the network is given: LR "enlarged" by bicubic to the output's size (AMINet), or "lr" as it is.
        template: Where faces lie in its pictures; None: unknown. A mapping of its two fields will do.
        range: Least and greatest level of its pictures.
        colours: Order of the channels, "rgb" or "bgr".
        degradation: What made LR pictures of HR ones: "bicubic" is Pillow's, antialiased.
        licence: Terms of the weights, or None.

    Raises:
        TypeError, ValueError: a field holds what it cannot; the message names it.
    """

    scale: int = 8
    input: Literal["enlarged", "lr"] = "enlarged"
    template: Template | None = None
    range: tuple[float, float] = (-1.0, 1.0)
    colours: Literal["rgb", "bgr"] = "rgb"
    degradation: str = "bicubic"
    licence: str | None = None

    def __post_init__(self) -> None:
        if type(self.scale) is not int:
            raise TypeError(f"expects.scale is {self.scale!r}; it takes an integer of at least 1")
        if self.scale < 1:
            raise ValueError(f"expects.scale is {self.scale}; it must be at least 1")
        for name, choices in (("input", ("enlarged", "lr")), ("colours", ("rgb", "bgr"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"expects.{name} is {getattr(self, name)!r}; it takes one of {', '.join(choices)}")
        object.__setattr__(self, "template", _template(self.template))
        object.__setattr__(self, "range", _range(self.range))
        if not isinstance(self.degradation, str) or not self.degradation:
            raise TypeError(f"expects.degradation is {self.degradation!r}; it takes a name such as bicubic")
        if self.licence is not None and (not isinstance(self.licence, str) or not self.licence):
            raise TypeError(f"expects.licence is {self.licence!r}; it takes text, or null")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON holds them."""
        return {**dataclasses.asdict(self), "range": list(self.range)}

    @classmethod
    def from_dict(cls, values: object) -> Expects:
        """The inverse of `to_dict`; fields left out have their defaults.

        An unknown field is refused: what a later version found worth writing down may change what the network has to
        be given, and to pass over it would give wrong pictures.
        """
        if not isinstance(values, Mapping):
            raise TypeError(f"expects is {values!r}; it takes a mapping of its fields")
        if unknown := sorted(map(str, set(values) - {field.name for field in dataclasses.fields(cls)})):
            raise ValueError(
                f"expects has no field {', '.join(unknown)} in this version; weights of a later aminet_fast need it:"
                " upgrade aminet_fast"
            )
        return cls(**values)


_SERVED = ("input", "range", "colours", "degradation")  # of which this version gives a network the defaults alone


def check_served(expects: Expects) -> None:
    """Raises ValueError, naming the field, where this version does not give a network what it expects."""
    served = Expects()
    for name in _SERVED:
        wanted, given = getattr(expects, name), getattr(served, name)
        if wanted != given:
            raise ValueError(
                f"these weights expect {name} {wanted!r}, and this aminet_fast prepares pictures with {name} {given!r}"
                " alone: upgrade aminet_fast, or prepare them yourself for the network that load_model returns"
            )


def check_scale(expects: Expects, scale: int) -> None:
    """Raises ValueError, saying what to type, where data settings of another `scale` than the weights' are used."""
    if expects.scale != scale:
        raise ValueError(
            f"these weights enlarge {expects.scale} times and the data settings say {scale}:"
            f" pass --data.scale {expects.scale}"
        )


def expects_of(model: nn.Module | Runner) -> Expects:
    """What a network's weights expect, also inside DataParallel, DDP, `torch.compile`, `graph` or an average of them.

    The defaults for a network that does not say.
    """
    said = (getattr(module, "expects", None) for module in network_of(model).modules())
    return next((expects for expects in said if isinstance(expects, Expects)), Expects())


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"expects.{name} is {value!r}; it takes a number")
    if not math.isfinite(value):
        raise ValueError(f"expects.{name} is {value!r}; it must be finite")
    return float(value)


def _share(name: str, value: object) -> float:
    share = _number(name, value)
    if not 0 < share < 1:
        raise ValueError(f"expects.{name} is {value!r}; it must lie between 0 and 1, a share of the picture's side")
    return share


def _template(value: object) -> Template | None:
    if value is None or isinstance(value, Template):
        return value
    names = {field.name for field in dataclasses.fields(Template)}
    if not isinstance(value, Mapping) or set(value) != names:
        raise TypeError(f"expects.template is {value!r}; it takes {' and '.join(sorted(names))}, or null")
    return Template(**value)


def _range(value: object) -> tuple[float, float]:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise TypeError(f"expects.range is {value!r}; it takes two numbers")
    low, high = (_number("range", number) for number in value)
    if low >= high:
        raise ValueError(f"expects.range is {list(value)}; the second must be above the first")
    return low, high
