"""The geometry of norm_act_conv: one convolution as taps and phases, along each axis, forward and for the gradients."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

# Bits of the three weights along an axis.
W0, W1, W2 = 1, 2, 4
NOWHERE = -9  # no index is this


@dataclass(frozen=True)
class Axis:
    """One axis of the map.

    Forward: y[phases * q + p] = sum over u of w(p, u) * a[step * q + u - before(p)]; nearest x2 is two phases of two
    taps on the small map (one, if every second row is dropped again).
    Gradient: da[back_phases * q + p] = sum over u of w'(p, u) * dy[back_step * q + u - back_before].
    What the padding read as well comes from one more row before dy and one behind it: pixel `fold_low` takes its last
    tap from the first of them, `fold_high` its first tap from the other, which hold the sum of what they must add.
    """

    size: int
    stride: int
    reflect: bool
    upsample: bool

    @cached_property
    def out(self) -> int:
        return (self.size * (2 if self.upsample else 1) - 1) // self.stride + 1

    @cached_property
    def strided(self) -> bool:
        """Whether pixels of either parity are read by other taps; an axis of one pixel has no parity."""
        return self.stride == 2 and not self.upsample and self.size > 1

    @cached_property
    def doubled(self) -> bool:
        return self.upsample and self.stride == 1

    # Forward: sets of weights by phase and tap.
    @cached_property
    def sets(self) -> list[list[int]]:
        if not self.upsample:
            return [[W0, W1, W2]]
        return [[W0, W1 | W2], [W0 | W1, W2]][: 2 if self.doubled else 1]

    @cached_property
    def cells(self) -> int:
        """Values of q."""
        return self.size if self.upsample else self.out

    @cached_property
    def low(self) -> int:
        """Where index -1 of the padded map comes from; the map before nearest x2."""
        return 0 if self.upsample else min(1, self.size - 1)

    @cached_property
    def high(self) -> int:
        return self.size - 1 if self.upsample else max(self.size - 2, 0)

    # Gradient of the input.
    @cached_property
    def back_sets(self) -> list[list[int]]:
        if self.strided:
            return [[W1], [W2, W0]]
        if self.doubled:
            return [[W2, W1 | W2, W0 | W1, W0]]
        return [[W1 | W2, W0]] if self.upsample else [[W2, W1, W0]]

    @cached_property
    def back_step(self) -> int:
        return 2 if self.doubled else 1

    @cached_property
    def back_before(self) -> int:
        return 0 if self.strided or (self.upsample and not self.doubled) else 1

    @cached_property
    def fold_low(self) -> int:
        return self.low if self.reflect else NOWHERE

    @cached_property
    def fold_high(self) -> int:
        """The last row of y reads beyond the map, unless a stride stops it short."""
        reaches = self.doubled or (not self.upsample and (self.size - 1) % self.stride == 0)
        return self.high if self.reflect and reaches else NOWHERE

    def regular(self, pixel: int, last: bool) -> int:
        """The row of dy that the pixel's last, or first, tap reads; it may be none of dy's."""
        phases = len(self.back_sets)
        taps = len(self.back_sets[pixel % phases])
        return self.back_step * (pixel // phases) + (taps - 1 if last else 0) - self.back_before

    @cached_property
    def also_low(self) -> int:
        """The row of dy that is added to its first one, in the row before dy; a row of none adds nothing."""
        return self.regular(self.fold_low, True) if self.fold_low != NOWHERE else NOWHERE

    @cached_property
    def also_high(self) -> int:
        return self.regular(self.fold_high, False) if self.fold_high != NOWHERE else NOWHERE


@dataclass(frozen=True)
class Plan:
    rows: Axis
    columns: Axis

    @cached_property
    def phases(self) -> int:
        """Along one axis; the forward's are the same along both."""
        return len(self.rows.sets)

    @cached_property
    def taps(self) -> int:
        return len(self.rows.sets[0])

    @cached_property
    def step(self) -> int:
        return 1 if self.rows.upsample else self.rows.stride

    @cached_property
    def reflect(self) -> bool:
        return self.rows.reflect

    @cached_property
    def forward_taps(self) -> list[tuple[int, int]]:
        """Sets of rows and of columns of the weight, phase by phase, tap by tap."""
        return _products(self.rows.sets, self.columns.sets)

    @cached_property
    def back_taps(self) -> list[tuple[int, int]]:
        return _products(self.rows.back_sets, self.columns.back_sets)

    @cached_property
    def plain_taps(self) -> list[tuple[int, int]]:
        """Behind nearest x2 the weights themselves, from the last to the first, of which the compiled backward is made.

        The gradient of the small map is a convolution of stride 2, by these, over sums of 2x2 of dy.
        """
        return _products([[W2, W1, W0]], [[W2, W1, W0]]) if self.rows.doubled else []


def _products(rows: list[list[int]], columns: list[list[int]]) -> list[tuple[int, int]]:
    return [(i, j) for of_row in rows for of_column in columns for i in of_row for j in of_column]


def plan_of(height: int, width: int, stride: int, reflect: bool, upsample: bool) -> Plan:
    return Plan(Axis(height, stride, reflect, upsample), Axis(width, stride, reflect, upsample))
