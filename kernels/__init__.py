"""Triton kernels, installed as ``aminet_fast.kernels``; imported when an operator chooses that backend."""
