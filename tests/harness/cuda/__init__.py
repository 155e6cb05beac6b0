"""The CUDA sources compiled by g++ and run by an emulator of the GPU.

cuda_on_cpu.h and the other headers of the emulator; build.py (compiles csrc/cuda against them, with sanitizers if
asked), emulated.py (runs cases of tests/harness/triton/ on it, in a process of its own); faulty.* and twins.cu (what
the emulator itself is tested with); nvcc.py and resources.py (the same sources compiled for GPUs that are not here, and
what they take of one); counters.h and counters.cpp (what a block does, counted by line: for benchmarks/gpu_model),
counted.cu (what these are tested with), notes.h (launches told, not run).
"""
