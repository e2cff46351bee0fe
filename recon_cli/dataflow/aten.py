"""What is known of ATen's operations beyond what their schemas say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch._ops import OpOverload
from torch.utils._pytree import tree_leaves

_STATISTICS: Mapping[str, tuple[tuple[int, ...], int | None]] = {
    "batch_norm": ((3, 4), 5), "instance_norm": ((3, 4), 5), "native_batch_norm": ((3, 4), 5),
    "_native_batch_norm_legit": ((3, 4), 5), "cudnn_batch_norm": ((3, 4), 5), "miopen_batch_norm": ((3, 4), 5),
    "batch_norm_update_stats": ((1, 2), None), "batch_norm_gather_stats": ((3, 4), None),
    "batch_norm_gather_stats_with_counts": ((3, 4), None),
}  # fmt: skip
"""Operations with running statistics: the positions of these, and of the argument that is true when they are moved.

The schemas of most do not say that they write to them.
"""


def name_of(operation: OpOverload) -> str:
    """What an operation is called, without its overload."""
    return str(operation.overloadpacket.__name__)


def argument_of(operation: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], at: int) -> Any:
    """An argument of a call, given by position or by name; None if it is left to its default."""
    arguments = operation._schema.arguments
    if at < len(args):
        return args[at]
    return kwargs.get(arguments[at].name) if at < len(arguments) else None


def statistics_of(operation: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """The arguments that are running statistics which a call moves, one step at a time: a BatchNorm's when it trains.

    Nothing that the call returns depends on them.
    """
    if name_of(operation) not in _STATISTICS:
        return []
    places, trains = _STATISTICS[name_of(operation)]
    if trains is not None and not argument_of(operation, args, kwargs, trains):
        return []
    found = [argument_of(operation, args, kwargs, at) for at in places]
    return [value for value in found if value is not None]


def aliases_of(operation: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[tuple[Any, bool]]:
    """The arguments that an operation's schema says it writes to or returns views of, and whether it writes."""
    for at, argument in enumerate(operation._schema.arguments):
        if argument.alias_info is not None:
            value = args[at] if at < len(args) else kwargs.get(argument.name)
            for leaf in tree_leaves(value):
                if leaf is not None:
                    yield leaf, argument.alias_info.is_write
