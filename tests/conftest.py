"""Set-up of every test process: Hypothesis' profile, and one core's threads for each of pytest-xdist's workers."""

from __future__ import annotations

import os

from hypothesis import settings

# Hypothesis looks at other examples every time, but not where a change waits to land.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

# Before torch is imported, and for the processes that tests start: workers that share cores slow each other many times.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
