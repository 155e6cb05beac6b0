"""Triton kernels, installed as ``aminet_fast.kernels``; imported only when an operator chooses the triton backend."""
