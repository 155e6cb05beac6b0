"""Triton's kernels without a GPU.

case.py and cases_<operator>.py (arguments to try an operator with), launches.py and resources.py (its kernels compiled
for GPUs that are not here), interpreter.py and redzones.py (its numbers, by Triton's interpreter), checks.py (what is
asked of both), interpreted.py (the interpreter's process).
"""
