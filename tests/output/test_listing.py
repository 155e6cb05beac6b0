from __future__ import annotations

from pathlib import Path

import pytest

from aminet_fast.output.listing import first_few


@pytest.mark.parametrize(
    ("count", "separator", "expected"),
    [
        (0, ", ", ""),
        (5, ", ", "0, 1, 2, 3, 4"),
        (6, ", ", "0, 1, 2, 3, 4 and 1 more"),
        (8, "; ", "0; 1; 2; 3; 4; and 3 more"),
        (7, "\n  ", "0\n  1\n  2\n  3\n  4\n  and 2 more"),
    ],
)
def test_the_first_five_and_how_many_more(count: int, separator: str, expected: str) -> None:
    assert first_few([Path(str(n)) for n in range(count)], separator) == expected
