"""Inert data written as a pickle of protocol 2, which PyTorch writes, and reads with `weights_only=True`."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from recon_cli.checkpoints.pickles.nodes import Call, Global, PersistentId
from recon_cli.errors import ReconError, quoted

_MAX_TEXT_BYTES = 2**32 - 1
_MAX_INT_BYTES = 2**31 - 1
# Real data holds at most a few tuples that contain themselves, and each is begun twice.
_MAX_REENTRIES = 100

_NEWOBJ_EX = Global("copy_reg", "__newobj_ex__")


def write_pickle(node: object, rename: Callable[[PersistentId], object] = lambda node: node.value) -> bytes:
    """Write a node as a pickle; the same node gives the same bytes.

    A text or name that occurs again is written once, and so is any other part that is the same object.

    :param rename: gives what a persistent id is written as; by default its own value.
    :raises ReconError: if it holds what protocol 2 has no way to write.
    :raises TypeError: if it holds something that no pickle is read as.
    """
    writer = _Writer(rename)
    writer.write(node)
    return bytes(writer.out)


class _Writer:
    """Writes each node by a generator that yields the nodes to write next, so that no depth is too deep.

    What is written for a node leaves one object on the stack of whoever reads it.
    """

    def __init__(self, rename: Callable[[PersistentId], object]) -> None:
        self.rename = rename
        self.out = bytearray(pickle.PROTO + b"\x02")
        self.memoized = 0
        self.memo: dict[int, int] = {}
        self.texts: dict[str, int] = {}
        self.globals: dict[tuple[str, str], int] = {}
        # The nodes that were begun, of those that are memoized at their end; and how often one was begun again.
        self.begun: set[int] = set()
        self.reentries = 0
        # The memo goes by identity, so what the writer itself makes has to stay.
        self.kept: list[object] = []

    def write(self, root: object) -> None:
        levels: list[Iterator[object]] = [iter([root])]
        while levels:
            for node in levels[-1]:
                index = self.memo.get(id(node))
                if index is not None:
                    self.get(index)
                elif type(node) in _LEAVES:
                    _LEAVES[type(node)](self, node)
                elif type(node) in _CONTAINERS:
                    levels.append(_CONTAINERS[type(node)](self, node))
                    break
                else:
                    raise TypeError(f"no pickle is read as a {type(node).__name__}")
            else:
                levels.pop()
        self.out += pickle.STOP

    # The memo

    def get(self, index: int) -> None:
        self.out += _indexed(pickle.BINGET, pickle.LONG_BINGET, index)

    def put(self) -> int:
        index = self.memoized
        self.memoized += 1
        self.out += _indexed(pickle.BINPUT, pickle.LONG_BINPUT, index)
        return index

    def memoize(self, node: object) -> None:
        self.memo[id(node)] = self.put()

    def is_begun_again(self, node: object) -> bool:
        """Whether a node that is memoized only when all its parts are written is met among them."""
        if id(node) in self.begun:
            return True
        self.begun.add(id(node))
        return False

    # What has no parts

    def write_none(self, _: None) -> None:
        self.out += pickle.NONE

    def write_bool(self, value: bool) -> None:
        self.out += pickle.NEWTRUE if value else pickle.NEWFALSE

    def write_int(self, value: int) -> None:
        if 0 <= value < 1 << 8:
            self.out += pickle.BININT1 + value.to_bytes(1, "little")
        elif 0 <= value < 1 << 16:
            self.out += pickle.BININT2 + value.to_bytes(2, "little")
        elif -(1 << 31) <= value < 1 << 31:
            self.out += pickle.BININT + value.to_bytes(4, "little", signed=True)
        else:
            length = value.bit_length() // 8 + 1
            if length < 1 << 8:
                self.out += pickle.LONG1 + length.to_bytes(1, "little")
            elif length <= _MAX_INT_BYTES:
                self.out += pickle.LONG4 + length.to_bytes(4, "little")
            else:
                raise ReconError(f"an integer of {length} bytes is too long for a pickle of protocol 2")
            self.out += value.to_bytes(length, "little", signed=True)

    def write_float(self, value: float) -> None:
        self.out += pickle.BINFLOAT + struct.pack(">d", value)

    def write_text(self, text: str) -> None:
        index = self.texts.get(text)
        if index is not None:
            self.get(index)
            return
        data = _encoded(text)
        if len(data) > _MAX_TEXT_BYTES:
            raise ReconError(f"{len(data)} bytes at once are too many for a pickle of protocol 2")
        self.out += pickle.BINUNICODE + len(data).to_bytes(4, "little")
        self.out += data
        self.texts[text] = self.put()

    def write_global(self, node: Global) -> None:
        names = (node.module, node.name)
        index = self.globals.get(names)
        if index is not None:
            self.get(index)
            return
        # A name with a dot, of a class within a class, is looked up otherwise in this protocol than in later ones.
        if "\n" in node.module or "\n" in node.name or "." in node.name:
            raise ReconError(f"a pickle of protocol 2 cannot name {quoted(node.full_name[:100])}")
        self.out += pickle.GLOBAL + _encoded(node.module) + b"\n" + _encoded(node.name) + b"\n"
        self.globals[names] = self.put()

    # What has parts

    def write_tuple(self, node: tuple[object, ...]) -> Iterator[object]:
        if not node:
            self.out += pickle.EMPTY_TUPLE
            return
        if self.is_begun_again(node):
            self.reentries += 1
            if self.reentries > _MAX_REENTRIES:
                raise ReconError("too many tuples of the checkpoint contain themselves; it cannot be written")
        if len(node) > len(_SHORT_TUPLES):
            self.out += pickle.MARK
            yield from node
            self.out += pickle.TUPLE
        else:
            yield from node
            self.out += _SHORT_TUPLES[len(node) - 1]
        index = self.memo.get(id(node))
        if index is None:
            self.memoize(node)
        else:
            # It was written among its parts, which hold that one.
            self.out += pickle.POP
            self.get(index)

    def write_list(self, node: list[object]) -> Iterator[object]:
        self.out += pickle.EMPTY_LIST
        self.memoize(node)
        yield from self.elements(node)

    def write_dict(self, node: dict[object, object]) -> Iterator[object]:
        self.out += pickle.EMPTY_DICT
        self.memoize(node)
        yield from self.items(node)

    def write_by_call(self, node: object) -> Iterator[object]:
        call = _CALLS[type(node)](node)
        self.kept.append(call)
        yield call
        self.memo[id(node)] = self.memo[id(call)]

    def write_persistent_id(self, node: PersistentId) -> Iterator[object]:
        if self.is_begun_again(node):
            raise ReconError("something of the checkpoint that lies elsewhere is a part of its own name")
        self.kept.append(value := self.rename(node))
        yield value
        self.out += pickle.BINPERSID
        self.memoize(node)

    def write_call(self, node: Call) -> Iterator[object]:
        if self.is_begun_again(node):
            # What holds it now could not be complete when the call is made.
            raise ReconError(f"{_called(node)} is among the arguments that it is made with; it cannot be written")
        if node.kind == "OBJ":
            self.out += pickle.MARK
            yield node.function
            yield from node.arguments
            self.out += pickle.OBJ
        elif node.kind == "NEWOBJ_EX":
            arguments = (node.function, node.arguments, dict(node.keywords))
            self.kept.append(arguments)
            yield _NEWOBJ_EX
            yield arguments
            self.out += pickle.REDUCE
        else:
            yield node.function
            yield node.arguments
            self.out += pickle.NEWOBJ if node.kind == "NEWOBJ" else pickle.REDUCE
        self.memoize(node)
        yield from self.elements(node.elements)
        yield from self.items(node.items)
        if node.built:
            yield node.state
            self.out += pickle.BUILD

    def elements(self, elements: Sequence[object]) -> Iterator[object]:
        if elements:
            self.out += pickle.MARK
            yield from elements
            self.out += pickle.APPENDS

    def items(self, items: Mapping[object, object]) -> Iterator[object]:
        if items:
            self.out += pickle.MARK
            yield from chain.from_iterable(items.items())
            self.out += pickle.SETITEMS


def _indexed(short: bytes, long: bytes, index: int) -> bytes:
    return short + index.to_bytes(1, "little") if index < 256 else long + index.to_bytes(4, "little")


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ReconError(f"the text {quoted(text[:100])} is not Unicode: it holds half of a surrogate pair") from None


def _called(call: Call) -> str:
    return f"what {quoted(call.full_name[:100])} makes" if call.full_name else "an object"


def _set_by_call(node: set[object] | frozenset[object]) -> Call:
    return Call(Global("__builtin__", type(node).__name__), (sorted(node, key=_pickle_of_member),))


def _pickle_of_member(member: object) -> bytes:
    """What members of a set are sorted by, as their own order is another in each process."""
    waiting = [member]
    while waiting:
        part = waiting.pop()
        if isinstance(part, (tuple, frozenset)):
            waiting.extend(part)
        elif isinstance(part, (Call, PersistentId)):
            raise ReconError("a set of other things than text, numbers and names cannot be written in a certain order")
    return write_pickle(member)


# What protocol 2 has no instructions for.
_CALLS: Mapping[type, Callable[[Any], Call]] = {
    bytes: lambda node: Call(Global("_codecs", "encode"), (node.decode("latin-1"), "latin1")),
    bytearray: lambda node: Call(Global("__builtin__", "bytearray"), (node.decode("latin-1"), "latin-1")),
    set: _set_by_call,
    frozenset: _set_by_call,
}
_SHORT_TUPLES = (pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3)
_LEAVES: Mapping[type, Callable[[_Writer, Any], None]] = {
    type(None): _Writer.write_none,
    bool: _Writer.write_bool,
    int: _Writer.write_int,
    float: _Writer.write_float,
    str: _Writer.write_text,
    Global: _Writer.write_global,
}
_CONTAINERS: Mapping[type, Callable[[_Writer, Any], Iterator[object]]] = {
    tuple: _Writer.write_tuple,
    list: _Writer.write_list,
    dict: _Writer.write_dict,
    bytes: _Writer.write_by_call,
    bytearray: _Writer.write_by_call,
    set: _Writer.write_by_call,
    frozenset: _Writer.write_by_call,
    PersistentId: _Writer.write_persistent_id,
    Call: _Writer.write_call,
}
