"""Reading the autograd graph: where parameters are used, and which operation made a layer's output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch

Node = Any
"""A node of the autograd graph; PyTorch's own type does not name what is read here."""

_RESHAPING = frozenset({"ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0", "SqueezeBackward1"})
_TRANSPOSING = frozenset({"TBackward0", "TransposeBackward0"})


def uses_of_parameters(losses: Iterable[torch.Tensor]) -> Counter[int]:
    """How many edges of the graph behind the losses lead into each parameter, by the parameter's id."""
    uses: Counter[int] = Counter()
    pending = [loss.grad_fn for loss in losses]
    seen = set(pending)
    while pending:
        node: Node = pending.pop()
        if node is None:
            continue
        for next_node, _ in node.next_functions:
            if next_node is None:
                continue
            variable = getattr(next_node, "variable", None)
            if variable is not None:
                uses[id(variable)] += 1
            elif next_node not in seen:
                seen.add(next_node)
                pending.append(next_node)
    return uses


def is_made_from(output: torch.Tensor, weight: torch.Tensor, operations: frozenset[str]) -> bool:
    """Whether a tensor is the plain result of one of these operations with a weight, but for its shape.

    Anything between the two, such as a hook that changes the output or a cast of the weight, makes the answer False.
    """
    node: Node = output.grad_fn
    while node is not None and node.name() in _RESHAPING:
        node = node.next_functions[0][0]
    if node is None or node.name() not in operations:
        return False
    for next_node, _ in node.next_functions:
        if next_node is not None and next_node.name() in _TRANSPOSING:
            next_node = next_node.next_functions[0][0]
        if next_node is not None and getattr(next_node, "variable", None) is weight:
            return True
    return False
