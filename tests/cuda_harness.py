"""The package of the files in tests/cuda/: the CUDA sources compiled by g++ and run by an emulator of the GPU.

``import cuda_harness.build`` finds tests/cuda/build.py. What is in there: build.py (compiles csrc/cuda for the CPU, with
sanitizers if asked), emulated.py (runs cases of tests/triton/ on it, in a process of its own), and the emulator's headers.
"""

from pathlib import Path

__path__ = [str(Path(__file__).with_name("cuda"))]
