"""What TorchScript's types say of a value: whether memory hangs on it, and the names of its fields."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_TENSOR = frozenset({"TensorType"})
_CONTAINERS = frozenset({"ListType", "DictType"})
_TRANSPARENT = frozenset({"OptionalType", "TupleType"})
_PLAIN = frozenset(
    {
        "IntType", "FloatType", "BoolType", "ComplexType", "NumberType", "StringType", "NoneType", "DeviceObjType",
        "LayoutType", "MemoryFormatType", "ScalarTypeType", "EnumType", "SymIntType", "SymBoolType", "SymFloatType",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Holding:
    """What a value of some type may be or hold.

    :ivar tensors: whether it is a tensor or holds some.
    :ivar containers: whether it is a list or a dictionary or holds some, whose elements may change.
    """

    tensors: bool = False
    containers: bool = False

    def __or__(self, other: Holding) -> Holding:
        return Holding(self.tensors or other.tensors, self.containers or other.containers)

    def __bool__(self) -> bool:
        return self.tensors or self.containers


def holding(kind: Any) -> Holding:
    """What a value of a type may hold; anything, if the type is not known."""
    name = kind.kind()
    if name in _PLAIN:
        return Holding()
    if name in _TENSOR:
        return Holding(tensors=True)
    if name not in _CONTAINERS | _TRANSPARENT:
        return Holding(tensors=True, containers=True)
    return Holding(containers=name in _CONTAINERS) | holding_any(kind.containedTypes())


def holding_any(kinds: Iterable[Any]) -> Holding:
    """What values of several types may hold together."""
    found = Holding()
    for kind in kinds:
        found |= holding(kind)
    return found


def is_list(kind: Any) -> bool:
    """Whether a type is that of a list."""
    return bool(kind.kind() == "ListType")


def is_dictionary(kind: Any) -> bool:
    """Whether a type is that of a dictionary."""
    return bool(kind.kind() == "DictType")


def is_tuple(kind: Any) -> bool:
    """Whether a type is that of a tuple, named or not."""
    return bool(kind.kind() == "TupleType")


def field_names(kind: Any) -> tuple[str, ...] | None:
    """The fields of a named tuple's type; None for other types."""
    text = kind.str()
    if not is_tuple(kind) or not text.startswith("NamedTuple("):
        return None
    fields, depth, begin = [], 0, len("NamedTuple(")
    for at in range(begin, len(text)):
        if depth == 0 and text[at] in ",)":
            fields.append(text[begin:at].partition(" : ")[0].strip())
            begin = at + 1
        depth += (text[at] in "([") - (text[at] in ")]")
    return tuple(fields)
