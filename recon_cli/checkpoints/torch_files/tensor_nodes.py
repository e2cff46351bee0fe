"""Tensors as torch pickles them: a call that would rebuild one from a storage, taken for what it says."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from recon_cli.checkpoints.gathering import span_of
from recon_cli.checkpoints.pickles.nodes import Call, Global, PersistentId, items_of
from recon_cli.checkpoints.tensors import TORCH_DTYPES, overflows
from recon_cli.errors import quoted

STORAGE_DTYPES: Mapping[str, str] = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL", "ComplexFloatStorage": "C64", "ComplexDoubleStorage": "C128", "UntypedStorage": "U8",
    "QInt8Storage": "I8", "QUInt8Storage": "U8", "QInt32Storage": "I32",
    "QUInt4x2Storage": "U8", "QUInt2x4Storage": "U8",
}  # fmt: skip
"""torch's classes of storages, and the type of an element as safetensors writes it."""

_UNSUPPORTED = {
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_qtensor": "quantised",
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch._utils._rebuild_meta_tensor_no_storage": "without values (on the meta device)",
    "torch._utils._rebuild_wrapper_subclass": "of a subclass of Tensor",
    "torch._utils._rebuild_xla_tensor": "of another device's own kind",
    "torch._utils._rebuild_device_tensor_from_numpy": "of another device's own kind",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "of another device's own kind",
}


_QUANTISED = frozenset({"QInt8Storage", "QUInt8Storage", "QInt32Storage", "QUInt4x2Storage", "QUInt2x4Storage"})
_STORAGE_MODULES = ("torch", "torch.storage", "torch.cuda")


class NotPlainError(Exception):
    """A tensor that is not a plain run of numbers; the message completes `it is ...`."""


class DamagedError(NotPlainError):
    """A tensor that contradicts itself."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"damaged: {reason}")


@dataclass(frozen=True)
class StorageName:
    """What a pickle says of a storage that lies outside it.

    :ivar key: its name in the file.
    :ivar type: the class of storages.
    :ivar location: the device that it was saved from.
    :ivar count: its elements.
    :ivar older: whether it is named as in files of the older form.
    """

    type: Global
    key: str
    location: str
    count: int
    older: bool = False

    @property
    def dtype(self) -> str:
        """The type of an element."""
        return STORAGE_DTYPES[self.type.name]


class TensorView(NamedTuple):
    """A tensor as a view of a storage.

    :ivar storage: the storage; several views may be of the same.
    :ivar offset: its first element, in elements of its own type.
    :ivar strides: in elements.
    """

    storage: StorageName
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def identity(self) -> tuple[object, ...]:
        """What it shares with a tensor that is tied to it, and with no other of its file."""
        return self.storage.key, self.dtype, self.offset, self.shape, self.strides


def storage_name(node: PersistentId) -> StorageName:
    """What a persistent id says of a storage.

    :raises NotPlainError: if it is no name of a storage.
    """
    value = node.value
    if not isinstance(value, tuple) or not 5 <= len(value) <= 6 or value[0] != "storage":
        raise NotPlainError("of an unknown kind: its storage has no name")
    _, kind, key, location, count, *view = value
    if view and view[0] is not None:
        raise NotPlainError("a part of a storage in a form that torch wrote before version 0.4")
    if not is_storage_class(kind):
        raise NotPlainError("of an unknown kind: its storage is of no class that is known")
    if not isinstance(key, str) or not isinstance(location, str) or not _is_count(count):
        raise DamagedError("the name of its storage makes no sense")
    return StorageName(kind, key, location, count, older=bool(view))


def is_storage_class(node: object) -> bool:
    """Whether a node is one of torch's classes of storages."""
    return isinstance(node, Global) and node.module in _STORAGE_MODULES and node.name in STORAGE_DTYPES


def as_view(node: object) -> TensorView | None:
    """The tensor that a node would rebuild; None if it would rebuild none.

    :raises NotPlainError: if it is a tensor, but no plain one.
    """
    for _ in range(_MAX_WRAPPERS):
        if not isinstance(node, Call) or node.full_name is None:
            return None
        if node.full_name in _UNSUPPORTED:
            raise NotPlainError(_UNSUPPORTED[node.full_name])
        if node.full_name in REBUILDERS and (node.kind != "REDUCE" or node.built or node.items or node.elements):
            raise DamagedError("something changes it after it was rebuilt")
        read = _READERS.get(node.full_name)
        if read is not None:
            return read(node.arguments)
        unwrap = _WRAPPERS.get(node.full_name)
        if unwrap is None:
            return None
        node = unwrap(node.arguments)
    raise DamagedError("it is wrapped again and again")


def plain_view(node: object) -> TensorView:
    """The tensor that a node rebuilds.

    :raises NotPlainError: if it rebuilds none, or no plain one.
    """
    view = as_view(node)
    if view is None:
        raise DamagedError("what rebuilds it makes no sense")
    return view


def is_tensor(node: object) -> bool:
    """Whether a node would rebuild a tensor, of whichever kind."""
    return isinstance(node, Call) and node.full_name in REBUILDERS


def is_plain_tensor(node: object) -> bool:
    """Whether a node is a tensor on a storage and nothing else: no hooks, no state, no marks."""
    if not isinstance(node, Call) or node.full_name not in _ON_STORAGES or node.built or node.items or node.elements:
        return False
    arguments = node.arguments
    if len(arguments) < 2 or not isinstance(arguments[0], PersistentId) or not isinstance(arguments[1], int):
        return False
    value = arguments[0].value
    if not isinstance(value, tuple) or len(value) < 2 or not is_storage_class(value[1]):
        return False
    return all(_is_trivial(argument) for argument in arguments[2:])


def _is_trivial(argument: object) -> bool:
    if isinstance(argument, Call):
        return argument.full_name == "collections.OrderedDict" and not (
            argument.arguments or argument.items or argument.built
        )
    if isinstance(argument, Global):
        return argument.module == "torch" and argument.name in TORCH_DTYPES
    if isinstance(argument, (tuple, list)):
        return all(type(item) is int for item in argument)
    return argument is None or isinstance(argument, bool) or argument == {}


def with_storage(node: object, storage: PersistentId, offset: int, strides: Sequence[int]) -> Call:
    """The same tensor on another storage.

    :param node: one of which `as_view` makes a view.
    """
    assert isinstance(node, Call)
    arguments = list(node.arguments)
    if node.full_name in _ON_STORAGES:
        arguments[0], arguments[1], arguments[3] = storage, offset, tuple(strides)
    elif node.full_name == _FROM_TYPE:
        function, kind, inner, state = arguments
        rebuilt = with_storage(Call(function, inner), storage, offset, strides)  # type: ignore[arg-type]
        arguments = [function, kind, rebuilt.arguments, state]
    else:
        arguments[0] = with_storage(arguments[0], storage, offset, strides)
    return Call(node.function, tuple(arguments))


_ON_STORAGES = {
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
}
_MAX_DIMENSIONS = 64
"""More than any operation of torch takes."""
_FROM_TYPE = "torch._tensor._rebuild_from_type_v2"
_PLAIN_TYPES = {"torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"}


def _tensor(arguments: tuple[object, ...]) -> TensorView:
    """`_rebuild_tensor(storage, offset, size, stride)`."""
    _check_count(arguments, 4)
    return _view(arguments, None)


def _tensor_v2(arguments: tuple[object, ...]) -> TensorView:
    """`_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks, marks=None)`."""
    _check_count(arguments, 6, 7)
    _check_marks(*arguments[6:])
    return _with_gradient(_view(arguments, None), arguments[4])


def _tensor_v3(arguments: tuple[object, ...]) -> TensorView:
    """`_rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype, marks=None)`."""
    _check_count(arguments, 7, 8)
    kind = arguments[6]
    if not isinstance(kind, Global) or kind.module != "torch" or kind.name not in TORCH_DTYPES:
        name = quoted(kind.full_name) if isinstance(kind, Global) else "unknown"
        raise NotPlainError(f"of the type {name}, which is not supported")
    _check_marks(*arguments[7:])
    return _with_gradient(_view(arguments, TORCH_DTYPES[kind.name]), arguments[4])


def _parameters_tensor(arguments: tuple[object, ...]) -> object:
    """`_rebuild_parameter(tensor, requires_grad, hooks)`, and `_with_state` with `(..., state)`."""
    _check_count(arguments, 3, 4)
    return arguments[0]


def _plain_tensor(arguments: tuple[object, ...]) -> object:
    """`_rebuild_from_type_v2(function, type, arguments, state)`: a tensor with attributes of its own."""
    _check_count(arguments, 4)
    function, kind, inner, _ = arguments
    if not isinstance(kind, Global) or kind.full_name not in _PLAIN_TYPES or not isinstance(inner, tuple):
        raise NotPlainError(f"of the class {quoted(kind.full_name) if isinstance(kind, Global) else 'unknown'}")
    return Call(function, inner)


_READERS: Mapping[str, Callable[[tuple[object, ...]], TensorView]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
}
"""What makes a tensor of another one, and how to come to that."""

_WRAPPERS: Mapping[str, Callable[[tuple[object, ...]], object]] = {
    "torch._utils._rebuild_parameter": _parameters_tensor,
    "torch._utils._rebuild_parameter_with_state": _parameters_tensor,
    _FROM_TYPE: _plain_tensor,
}
"""What torch puts around the call that rebuilds a tensor; each gives that call."""

_MAX_WRAPPERS = 4
"""More than torch puts around each other."""

REBUILDERS = frozenset({*_READERS, *_WRAPPERS, *_UNSUPPORTED})
"""The functions with which torch rebuilds tensors."""


def _view(arguments: tuple[object, ...], dtype: str | None) -> TensorView:
    storage, offset, shape, strides = arguments[:4]
    shape, strides = _counts(shape), _counts(strides)
    if not isinstance(storage, PersistentId) or not _is_count(offset) or shape is None or strides is None:
        raise DamagedError("what rebuilds it makes no sense")
    if len(shape) != len(strides):
        raise DamagedError("it has more sizes than strides, or fewer")
    if len(shape) > _MAX_DIMENSIONS or overflows(shape):
        raise DamagedError("its shape is too large")
    found = storage_name(storage)
    if found.type.name in _QUANTISED:
        raise NotPlainError("quantised")
    if dtype is None and found.type.name == "UntypedStorage":
        raise DamagedError("its storage has no type")
    assert isinstance(offset, int)
    return TensorView(found, dtype or found.dtype, offset, shape, strides)


def check_bounds(view: TensorView, elements: int) -> None:
    """Check that a view lies within its storage and does not unfold to more than that holds.

    :param elements: how many elements of the view's type the storage holds.
    :raises NotPlainError: if it does not.
    """
    span = span_of(view.shape, view.strides)
    if span and view.offset + span > elements:
        raise DamagedError("it reaches beyond its storage")
    size = math.prod(view.shape)
    if size > elements:
        raise NotPlainError(
            f"a view that repeats its memory: it claims {size} elements, but only {elements} are stored"
        )


def _check_count(arguments: tuple[object, ...], *counts: int) -> None:
    if len(arguments) not in counts:
        raise DamagedError("what rebuilds it has an argument too few or too many")


def _with_gradient(view: TensorView, requires_grad: object) -> TensorView:
    if not isinstance(requires_grad, bool) or (requires_grad and not view.dtype.startswith(("F", "BF", "C"))):
        raise DamagedError("what rebuilds it makes no sense")
    return view


def _check_marks(marks: object = None) -> None:
    items = () if marks is None else items_of(marks)
    if items is None or any(value is not False for _, value in items):
        raise NotPlainError("a conjugated or negated view")


def _counts(value: object) -> tuple[int, ...] | None:
    if isinstance(value, Call) and value.full_name == "torch.Size" and len(value.arguments) == 1:
        value = value.arguments[0]
    if not isinstance(value, (tuple, list)):
        return None
    for item in value:
        if not _is_count(item):
            return None
    return tuple(value)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63
