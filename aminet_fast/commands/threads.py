"""How long OpenMP's waiting threads spin, for the commands; imports nothing, for it has to come before torch."""

from __future__ import annotations

import os
import sys

SPINCOUNT = "GOMP_SPINCOUNT"
# Threads that wait for the next piece of work spin, 300,000 times by default, and hold cores that other processes or
# the loader could use: beside two busy processes on two cores a step then takes several times as long. With none at all
# every operator would wait until the kernel has woken its threads.
SPINS = 30_000
# Whoever has set one of these has chosen: the standard's, GNU's, and that of Intel's and LLVM's library.
CHOICES = ("OMP_WAIT_POLICY", SPINCOUNT, "KMP_BLOCKTIME")


def spin_briefly() -> None:
    """Choose a short spin for this process and those that it starts, where nobody has chosen.

    The OpenMP library reads it once, when torch is loaded; does nothing after that.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in CHOICES):
        os.environ[SPINCOUNT] = str(SPINS)
