"""The package of the files in tests/triton/, whose own name would be Triton's.

``import triton_harness.case`` finds tests/triton/case.py. What is in there: case.py (arguments to try an operator
with), launches.py and resources.py (its kernels compiled for GPUs that are not here), interpreter.py and redzones.py
(its numbers, by Triton's interpreter), checks.py (what is asked of both), interpreted.py (the interpreter's process).
"""

from pathlib import Path

__path__ = [str(Path(__file__).with_name("triton"))]
