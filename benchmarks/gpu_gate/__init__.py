"""What only a GPU can show, in phases that fit a few minutes each: docs/gpu.md.

A phase is a list of sections. They run in one process, one after the other; each has a time limit, and its rows are
written to results-<phase>.jsonl as they come, so that what is cut short keeps what it has.
"""
