"""What an operator may be called with, as a table: checked here, in the same words for all operators.

    take = arguments("layer_norm2d", image("x"), parameter("weight", "[C]"), parameter("bias", "[C]"))
    x, weight, bias = take(x, weight, bias)

All tensors are compared with the first one. A size in a shape is a number, a name, or a product as "3*C". A name is
bound by the first tensor that has it alone, unless the operator gives it with the call: `given=("heads",)` and
take(..., heads=heads). "K[i]" is of entry i of a list, and given. "[2, 2, K, K] of odd K" asks for an odd one too.

A table becomes a function once, at import, because every call of every operator passes here: written out it takes
fewer steps than a walk over the table, and torch.compile has no table to guard.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from ._library import DTYPES, describe, entering


@dataclass(frozen=True)
class Wanted:
    """A tensor or, `listed`, a list of them; `optional`: it, or an entry of the list, may be None.

    image: it enters, in autocast's dtype. or_float32: float32 will do, whatever the first one's dtype.
    """

    name: str
    shape: str
    image: bool
    or_float32: bool
    optional: bool
    listed: bool


def image(
    name: str,
    shape: str = "[N, C, H, W]",
    *,
    or_float32: bool = False,
    optional: bool = False,
    listed: bool = False,
) -> Wanted:
    """Of the first one's dtype, after both have entered."""
    return Wanted(name, shape, True, or_float32, optional, listed)


def parameter(
    name: str, shape: str, *, or_float32: bool = True, optional: bool = False, listed: bool = False
) -> Wanted:
    """As it is: of the first one's dtype or float32."""
    return Wanted(name, shape, False, or_float32, optional, listed)


def arguments(
    operator: str,
    *table: Wanted,
    given: Sequence[str] = (),
    dtype_words: str = "must have {first}'s dtype {dtype}{or_float32}",
    shape_words: str = "must be {wanted} beside {first} {shape}",
) -> Callable[..., tuple[Any, ...]]:
    """The table as a function of the arguments and of what is given; it returns them, images as they enter.

    It raises TypeError or ValueError with the operator, the argument's name, what is wanted and what came.
    dtype_words, shape_words: what is wanted, of the first one's name, dtype and shape; {dtypes} are all that are
    allowed, {or_float32} is there where that is one of them.
    """

    def refuse(at: int, i: int | None, value: Any, first: Tensor, wanted: Sequence[int | str]) -> NoReturn:
        """Says which of its demands argument `at`, or entry i of that list, does not meet."""
        want, lead = table[at], table[0]
        start = f"{operator}: {want.name if i is None else f'{want.name}[{i}]'}"
        if not isinstance(value, Tensor):
            raise TypeError(f"{start} must be a tensor, got {describe(value)}")
        if value.dtype not in DTYPES and (want.image or want is lead):
            raise TypeError(f"{start} must be one of {', '.join(map(_short, DTYPES))}, got {describe(value)}")
        if want is lead:
            raise ValueError(f"{start} must be {want.shape} with every size at least 1, got {describe(value)}")
        allowed = (first.dtype, torch.float32) if want.or_float32 else (first.dtype,)
        if value.dtype not in allowed:
            words = dtype_words.format(
                first=lead.name,
                dtype=first.dtype,
                dtypes=" or ".join(map(_short, dict.fromkeys(allowed))),
                or_float32=" or float32" if want.or_float32 else "",
            )
            raise TypeError(f"{start} {words}, got {describe(value)}")
        if value.device != first.device:
            there = f"{value.device} and {lead.name} on {first.device}"
            raise ValueError(f"{start} is on {there}; move them to one device")
        shape = f"[{', '.join(map(str, wanted))}]{want.shape.rpartition(']')[2]}"
        words = shape_words.format(first=lead.name, shape=list(first.shape), wanted=shape)
        raise ValueError(f"{start} {words}, got {describe(value)}")

    names: dict[str, Any] = {"DTYPES": DTYPES, "Tensor": Tensor, "float32": torch.float32}
    names |= {"entering": entering, "refuse": refuse, "_size": _size}
    exec(_source(table, given), names)
    return names["take"]


def _source(table: Sequence[Wanted], given: Sequence[str]) -> str:
    """Python: `take`, a function of the arguments a0, a1, ..."""
    known = set(given)
    shapes = [_parsed(want, known) for want in table]
    names = [f"a{at}" for at in range(len(table))]
    lines = [
        f"def take({', '.join([*names, *(['*', *given] if given else [])])}):",
        f" if not isinstance(a0, Tensor) or a0.dtype not in DTYPES or a0.dim() != {len(shapes[0].sizes)}"
        " or a0.numel() == 0: refuse(0, None, a0, None, ())",
        " a0 = entering(a0)" if table[0].image else "",
        f" {', '.join(shapes[0].sizes)}, = a0.shape",
        " dtype, device = a0.dtype, a0.device",
        " either = dtype, float32",
    ]
    for at, (want, shape) in enumerate(zip(table[1:], shapes[1:], strict=True), 1):
        value, i, indent = f"a{at}", "None", " "
        if want.listed:
            lines += [f" a{at} = list(a{at})", f" for i, t in enumerate(a{at}):"]
            value, i, indent = "t", "i", "  "
        if want.optional:
            lines.append(f"{indent}if {value} is not None:")
            indent += " "
        refusal = f"refuse({at}, {i}, {value}, a0, ({', '.join(shape.words)},))"
        lines += [f"{indent}{name} = _size({value}, {axis}, {len(shape.sizes)})" for axis, name in shape.binds]
        if want.image:
            lines.append(f"{indent}if not isinstance({value}, Tensor) or {value}.dtype not in DTYPES: {refusal}")
            lines.append(f"{indent}{f'a{at}[i] = ' if want.listed else ''}{value} = entering({value})")
        wrong = [
            "" if want.image else f"not isinstance({value}, Tensor)",
            f"{value}.dtype not in either" if want.or_float32 else f"{value}.dtype != dtype",
            f"{value}.shape != ({', '.join(shape.sizes)},)",
            f"{value}.device != device",
            *(f"{name} < 1" for _, name in shape.binds),
            f"{shape.odd} % 2 == 0" if shape.odd else "",
        ]
        lines.append(f"{indent}if {' or '.join(filter(None, wrong))}: {refusal}")
    return "\n".join([*lines, f" return {', '.join(names)},"])


@dataclass(frozen=True)
class _Shape:
    sizes: tuple[str, ...]
    words: tuple[str, ...]  # of the same for a message: names of what a parameter is the first to have
    binds: tuple[tuple[int, str], ...]  # axes, and the names that they are the first to have
    odd: str


def _parsed(want: Wanted, known: set[str]) -> _Shape:
    """The shape, where `known` names have values; adds those that it binds."""
    found = re.fullmatch(r"\[(.+)\](?: of odd (\w+))?", want.shape)
    assert found is not None, f"{want.shape} is no shape"
    sizes = tuple(found[1].split(", "))
    new = [name for name in dict.fromkeys(sizes) if name.isidentifier() and name not in known]
    known.update(new)
    # A name that this one binds stands for itself; of an image its size does, but where there is none.
    words = tuple((f"({size} or {size!r})" if want.image else repr(size)) if size in new else size for size in sizes)
    return _Shape(sizes, words, tuple((sizes.index(name), name) for name in new), found[2] or "")


def _size(value: Any, axis: int, rank: int) -> int:
    """A side of a tensor of that rank; else 0, which is no tensor's."""
    return value.shape[axis] if isinstance(value, Tensor) and value.dim() == rank else 0


def odd_sizes(weights: Sequence[Any]) -> list[int | str]:
    """The kernel size of each [C, 1, K, K], and words where there is none: nothing has that size."""
    return [_size(weight, 3, 4) if _size(weight, 3, 4) % 2 == 1 else "K odd" for weight in weights]


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
