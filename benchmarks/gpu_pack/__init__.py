"""Everything that a GPU machine would compile, compiled beforehand on one without a GPU: docs/gpu.md."""
