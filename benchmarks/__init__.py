"""Speed and memory of the operators and the network, against plain PyTorch; see docs/benchmarks.md."""
