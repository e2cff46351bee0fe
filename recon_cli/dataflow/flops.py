"""What operations cost: floating-point operations as torch counts them, also where it has no formula."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, TypeAlias

import torch
from torch._ops import HigherOrderOperator, OpOverload
from torch.utils.flop_counter import flop_registry, sdpa_flop_count, shape_wrapper

Formula: TypeAlias = Callable[..., int]
Shape: TypeAlias = Sequence[int]


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """Attention on the CPU, counted as everywhere else."""
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]  # torch has no type for it


def _mkldnn_rnn(inputs: Shape, inner: Shape, recurrent: Shape, *_: Any, **__: Any) -> int:
    """A direction of a recurrent layer on the CPU: the products with its weights for every element of a sequence."""
    return 2 * prod(inputs[:-1]) * (prod(inner) + prod(recurrent))


def _cudnn_rnn(inputs: Shape, weights: Sequence[Shape], *_: Any, **__: Any) -> int:
    """A whole recurrent network on a GPU."""
    return 2 * prod(inputs[:-1]) * sum(prod(weight) for weight in weights if len(weight) == 2)


FORMULAS: Mapping[Any, Formula] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten.mkldnn_rnn_layer: _mkldnn_rnn,
    torch.ops.aten._cudnn_rnn: _cudnn_rnn,
    torch.ops.aten.miopen_rnn: _cudnn_rnn,
}
"""Formulas for what torch's own counter passes over, by the shapes of the arguments, as it takes them."""

_OWN: Mapping[Any, Formula] = {
    target: shape_wrapper(formula)  # type: ignore[no-untyped-call]  # torch has no type for it
    for target, formula in FORMULAS.items()
}


def is_counted(operation: HigherOrderOperator) -> bool:
    """Whether it is known what an operation that calls others costs."""
    return operation in flop_registry


def flops_of(
    operation: OpOverload | HigherOrderOperator, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
) -> int:
    """The floating-point operations of a call: those of matrix products, convolutions and attention, else 0.

    :param result: what the call returned.
    """
    target = operation.overloadpacket if isinstance(operation, OpOverload) else operation
    formula = _OWN.get(target) or flop_registry.get(target)
    return 0 if formula is None else int(formula(*args, **kwargs, out_val=result))
