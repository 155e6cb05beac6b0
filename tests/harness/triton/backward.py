"""Gradients of fake CUDA tensors: autograd's own engine asks the CUDA driver for streams, and there is none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def gradients(outputs: list[Tensor], inputs: list[Tensor], incoming: list[Tensor]) -> list[Tensor | None]:
    """As torch.autograd.grad gives them, by calling the graph's nodes in order."""
    waiting: dict[Any, list[Tensor | None]] = {}
    edges = [(o.grad_fn, o.output_nr) for o in outputs]
    users = _users([node for node, _ in edges])
    found: dict[int, Tensor] = {}

    def give(node: Any, number: int, gradient: Tensor | None) -> None:
        given = waiting.setdefault(node, [None] * len(node._input_metadata))
        if gradient is not None:
            # Nodes leave it to the engine to undo broadcasting and promotion.
            wanted = node._input_metadata[number]
            if gradient.shape != wanted.shape:
                gradient = gradient.sum_to_size(wanted.shape)
            gradient = gradient.to(wanted.dtype)
            before = given[number]
            given[number] = gradient if before is None else before + gradient

    for (node, number), gradient in zip(edges, incoming, strict=True):
        give(node, number, gradient)
    ready = [node for node in dict.fromkeys(node for node, _ in edges) if not users.get(node)]
    with torch.no_grad():
        while ready:
            node = ready.pop()
            given = waiting.pop(node)
            if hasattr(node, "variable"):
                if given[0] is not None:
                    found[id(node.variable)] = given[0]
                continue
            for other, number, gradient in _passed(node, given):
                give(other, number, gradient)
                users[other] -= 1
                if not users[other]:
                    ready.append(other)
    return [found.get(id(t)) for t in inputs]


def _passed(node: Any, given: list[Tensor | None]) -> list[tuple[Any, int, Tensor | None]]:
    """(node, number of its input, gradient) that a node of the graph makes of what it is given."""
    edges = [(other, number) for other, number in node.next_functions if other is not None]
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        made = node.apply(*given)
        made = made if isinstance(made, tuple) else (made,)
        # There are gradients of all arguments and edges for tensors only; both are there where one is needed.
        made = [gradient for gradient, need in zip(made, node.needs_input_grad, strict=True) if need]
    else:
        made = node(*given)
        made = made if isinstance(made, tuple) else (made,)
        made = [gradient for gradient, edge in zip(made, node.next_functions, strict=True) if edge[0] is not None]
    return [(*edge, gradient) for edge, gradient in zip(edges, made, strict=True)]


def _users(roots: list[Any]) -> dict[Any, int]:
    """How many edges lead to each node."""
    count: dict[Any, int] = {}
    seen, todo = set(roots), list(roots)
    while todo:
        for other, _ in todo.pop().next_functions:
            if other is not None:
                count[other] = count.get(other, 0) + 1
                if other not in seen:
                    seen.add(other)
                    todo.append(other)
    return count
