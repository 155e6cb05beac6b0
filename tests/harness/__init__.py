"""What stands in for machines that are not here: an emulator of a GPU, Triton's interpreter and compiler."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # of the checkout
