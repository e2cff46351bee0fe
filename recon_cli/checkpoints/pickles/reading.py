"""Pickles of protocols 0 to 5 read as inert data.

The instructions are those of `pickletools`. Where Python's own reader would import, call or look up something, this one
notes what the pickle asks for. Nothing grows beyond what the bytes that are there can fill.
"""

from __future__ import annotations

import codecs
import pickle
import re
import struct
import warnings
from collections.abc import Callable, Iterable, Mapping

from recon_cli.checkpoints.pickles.nodes import Call, CallKind, Global, PersistentId, is_key
from recon_cli.errors import ReconError

_STOP = pickle.STOP[0]
_NEWEST_PROTOCOL = 5
# Python itself reads no longer numbers from text.
_MAX_DIGITS = 4300

_INT32, _UINT16, _UINT32, _UINT64, _FLOAT = (
    struct.Struct(layout).unpack_from for layout in ("<i", "<H", "<I", "<Q", ">d")
)


# One byte can ask for a container of two hundred. In real pickles there are more bytes to each.
_FREE_CONTAINERS = 1_000_000
_BYTES_TO_A_CONTAINER = 4


class TruncatedPickleError(ReconError):
    """The bytes end before the pickle does; with more of them it may be whole."""


def read_pickle(data: bytes | memoryview, start: int = 0, what: str = "the pickle") -> tuple[object, int]:
    """Read one pickle as data.

    :param data: bytes that hold the pickle; others may follow it.
    :param start: where it begins.
    :param what: what messages call it.
    :return: what it holds, and where it ends. It can hold the same node twice, and nodes that contain themselves.
    :raises TruncatedPickleError: if the bytes end before the pickle does.
    :raises ReconError: if it is no valid pickle.
    """
    reader = _Reader(bytes(data), start, what)
    return reader.read(), reader.position


class _Reader:
    """The machine that a pickle is a program for.

    Every step moves `position` first and reads then, so a position behind the end tells that bytes were lacking.
    """

    __slots__ = ("containers", "data", "marked", "memo", "position", "size", "stack", "what")

    def __init__(self, data: bytes, start: int, what: str) -> None:
        self.data = data
        self.size = len(data)
        self.position = start
        self.what = what
        self.stack: list[object] = []
        # The stacks below each mark.
        self.marked: list[list[object]] = []
        self.memo: dict[int, object] = {}
        # How many more may be made.
        self.containers = _FREE_CONTAINERS + self.size // _BYTES_TO_A_CONTAINER

    def read(self) -> object:
        data = self.data
        steps = _STEPS
        try:
            while True:
                position = self.position
                self.position = position + 1
                opcode = data[position]
                if opcode == _STOP:
                    return self.stack.pop()
                steps[opcode](self)
        except (IndexError, struct.error):
            if self.position > self.size:
                raise self.truncated() from None
            raise self.invalid("it takes more than it has put down") from None
        except KeyError:
            raise self.invalid("it refers to something that it has not memoized") from None
        except UnicodeDecodeError:
            raise self.invalid("it holds text that is not UTF-8") from None

    def truncated(self) -> TruncatedPickleError:
        return TruncatedPickleError(f"{self.what} ends before its pickle does", "the file is damaged, or not complete")

    def invalid(self, reason: str) -> ReconError:
        return ReconError(
            f"{self.what} is no valid pickle: {reason} (before byte {self.position})",
            "the file is damaged, or something else than a checkpoint",
        )

    # What the steps share

    def take(self, length: int) -> bytes:
        start = self.position
        self.position = start + length
        if self.position > self.size:
            raise self.truncated()
        return self.data[start : self.position]

    def count_container(self) -> None:
        self.containers -= 1
        if self.containers < 0:
            raise self.invalid("it makes more containers than its bytes could fill")

    def line(self) -> bytes:
        start = self.position
        end = self.data.find(b"\n", start)
        if end < 0:
            raise self.truncated()
        self.position = end + 1
        return self.data[start:end]

    def decimal(self, text: bytes) -> int:
        if len(text) > _MAX_DIGITS or not re.fullmatch(rb"[+-]?[0-9]+", text):
            raise self.invalid("a number in it is no number, or too long")
        return int(text)

    def since_mark(self) -> list[object]:
        taken = self.stack
        if not self.marked:
            raise self.invalid("a mark is missing")
        self.stack = self.marked.pop()
        return taken

    def arguments(self) -> tuple[object, ...]:
        taken = self.stack.pop()
        if type(taken) is not tuple:
            raise self.invalid("the arguments of a call are no tuple")
        return taken

    def call(self, function: object, arguments: tuple[object, ...], kind: CallKind) -> Call:
        # The older form of torch files names the class of a module by a persistent id.
        if type(function) not in (Global, Call, PersistentId):
            raise self.invalid("it calls something that is no function")
        return Call(function, arguments, kind)

    def put_items(self, taken: list[object]) -> None:
        target = self.stack[-1]
        if type(target) is dict:
            target.update(self.pairs(taken))
        elif type(target) is Call:
            self.check_not_built(target)
            target.update(self.pairs(taken))
        else:
            raise self.invalid("it sets items of something that is no mapping")

    def pairs(self, taken: list[object]) -> Iterable[tuple[object, object]]:
        if len(taken) % 2:
            raise self.invalid("a key lacks its value")
        keys = taken[::2]
        for key in keys:
            if type(key) is not str and not is_key(key):
                raise self.invalid("a key is no text, number or other small value that cannot change")
        return zip(keys, taken[1::2], strict=True)

    def put_elements(self, taken: list[object]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(taken)
        elif type(target) is Call:
            self.check_not_built(target)
            if target.items:
                raise self.invalid("it appends to an object after it has set its items")
            target.extend(taken)
        else:
            raise self.invalid("it appends to something that is no list")

    def check_not_built(self, target: Call) -> None:
        if target.built:
            raise self.invalid("it changes an object after it has set its state")

    def check_members(self, members: list[object]) -> None:
        for member in members:
            if not is_key(member):
                raise self.invalid("a member of a set is no text, number or other small value that cannot change")

    # Framing

    def proto(self) -> None:
        self.position += 1
        protocol = self.data[self.position - 1]
        if protocol > _NEWEST_PROTOCOL:
            raise self.invalid(f"its protocol {protocol} is newer than any known one")

    def frame(self) -> None:
        self.position += 8
        (length,) = _UINT64(self.data, self.position - 8)
        if self.position + length > self.size:
            raise self.truncated()

    def unknown(self) -> None:
        raise self.invalid("it has an unknown instruction")

    def outside(self) -> None:
        raise self.invalid("it needs what lies outside the file: an extension or a buffer")

    # Stack and memo

    def mark(self) -> None:
        self.count_container()
        self.marked.append(self.stack)
        self.stack = []

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    def pop_mark(self) -> None:
        self.since_mark()

    def dup(self) -> None:
        self.stack.append(self.stack[-1])

    def get(self) -> None:
        self.stack.append(self.memo[self.decimal(self.line())])

    def binget(self) -> None:
        self.position += 1
        self.stack.append(self.memo[self.data[self.position - 1]])

    def long_binget(self) -> None:
        self.position += 4
        self.stack.append(self.memo[_UINT32(self.data, self.position - 4)[0]])

    def put(self) -> None:
        self.memo[self.decimal(self.line())] = self.stack[-1]

    def binput(self) -> None:
        self.position += 1
        self.memo[self.data[self.position - 1]] = self.stack[-1]

    def long_binput(self) -> None:
        self.position += 4
        self.memo[_UINT32(self.data, self.position - 4)[0]] = self.stack[-1]

    def memoize(self) -> None:
        self.count_container()
        self.memo[len(self.memo)] = self.stack[-1]

    # Numbers

    def none(self) -> None:
        self.stack.append(None)

    def newtrue(self) -> None:
        self.stack.append(True)

    def newfalse(self) -> None:
        self.stack.append(False)

    def int_line(self) -> None:
        text = self.line()
        self.stack.append({b"00": False, b"01": True}[text] if text in (b"00", b"01") else self.decimal(text))

    def long_line(self) -> None:
        self.stack.append(self.decimal(self.line().removesuffix(b"L")))

    def float_line(self) -> None:
        text = self.line()
        if len(text) > _MAX_DIGITS or not re.fullmatch(rb"[+-]?([0-9.]+([eE][+-]?[0-9]+)?|nan|inf)", text):
            raise self.invalid("a number in it is no number, or too long")
        try:
            self.stack.append(float(text))
        except ValueError:
            raise self.invalid("a number in it is no number") from None

    def binint(self) -> None:
        self.position += 4
        self.stack.append(_INT32(self.data, self.position - 4)[0])

    def binint1(self) -> None:
        self.position += 1
        self.stack.append(self.data[self.position - 1])

    def binint2(self) -> None:
        self.position += 2
        self.stack.append(_UINT16(self.data, self.position - 2)[0])

    def binfloat(self) -> None:
        self.position += 8
        self.stack.append(_FLOAT(self.data, self.position - 8)[0])

    def long1(self) -> None:
        self.position += 1
        self.stack.append(int.from_bytes(self.take(self.data[self.position - 1]), "little", signed=True))

    def long4(self) -> None:
        self.stack.append(int.from_bytes(self.take(self.length_int32()), "little", signed=True))

    # Text and bytes

    def length_uint8(self) -> int:
        self.position += 1
        return self.data[self.position - 1]

    def length_int32(self) -> int:
        self.position += 4
        length: int = _INT32(self.data, self.position - 4)[0]
        if length < 0:
            raise self.invalid("a length is negative")
        return length

    def length_uint32(self) -> int:
        self.position += 4
        length: int = _UINT32(self.data, self.position - 4)[0]
        return length

    def length_uint64(self) -> int:
        self.position += 8
        length: int = _UINT64(self.data, self.position - 8)[0]
        return length

    def short_binunicode(self) -> None:
        self.stack.append(self.take(self.length_uint8()).decode("utf-8", "surrogatepass"))

    def binunicode(self) -> None:
        self.stack.append(self.take(self.length_uint32()).decode("utf-8", "surrogatepass"))

    def binunicode8(self) -> None:
        self.stack.append(self.take(self.length_uint64()).decode("utf-8", "surrogatepass"))

    def unicode_line(self) -> None:
        try:
            self.stack.append(self.line().decode("raw-unicode-escape"))
        except UnicodeDecodeError:
            raise self.invalid("it holds text with a broken escape sequence") from None

    def short_binstring(self) -> None:
        self.stack.append(_text_of_python_2(self.take(self.length_uint8())))

    def binstring(self) -> None:
        self.stack.append(_text_of_python_2(self.take(self.length_int32())))

    def string_line(self) -> None:
        text = self.line()
        if len(text) < 2 or text[0] != text[-1] or text[:1] not in (b"'", b'"'):
            raise self.invalid("text in it lacks its quotes")
        try:
            with warnings.catch_warnings():
                # An unknown escape sequence stands for itself, as it did in Python 2.
                warnings.simplefilter("ignore")
                self.stack.append(_text_of_python_2(codecs.escape_decode(text[1:-1])[0]))
        except ValueError:
            raise self.invalid("it holds text with a broken escape sequence") from None

    def short_binbytes(self) -> None:
        self.stack.append(self.take(self.length_uint8()))

    def binbytes(self) -> None:
        self.stack.append(self.take(self.length_uint32()))

    def binbytes8(self) -> None:
        self.stack.append(self.take(self.length_uint64()))

    def bytearray8(self) -> None:
        self.stack.append(bytearray(self.take(self.length_uint64())))

    # Containers

    def empty_tuple(self) -> None:
        self.stack.append(())

    def tuple1(self) -> None:
        self.count_container()
        stack = self.stack
        stack[-1] = (stack[-1],)

    def tuple2(self) -> None:
        last = self.stack.pop()
        self.stack[-1] = (self.stack[-1], last)

    def tuple3(self) -> None:
        last = self.stack.pop()
        middle = self.stack.pop()
        self.stack[-1] = (self.stack[-1], middle, last)

    def tuple_since_mark(self) -> None:
        taken = self.since_mark()
        self.stack.append(tuple(taken))

    def empty_list(self) -> None:
        self.count_container()
        self.stack.append([])

    def list_since_mark(self) -> None:
        taken = self.since_mark()
        self.stack.append(taken)

    def append(self) -> None:
        element = self.stack.pop()
        self.put_elements([element])

    def appends(self) -> None:
        self.put_elements(self.since_mark())

    def empty_dict(self) -> None:
        self.count_container()
        self.stack.append({})

    def dict_since_mark(self) -> None:
        taken = self.since_mark()
        self.stack.append(dict(self.pairs(taken)))

    def setitem(self) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        self.put_items([key, value])

    def setitems(self) -> None:
        self.put_items(self.since_mark())

    def empty_set(self) -> None:
        self.count_container()
        self.stack.append(set())

    def additems(self) -> None:
        members = self.since_mark()
        target = self.stack[-1]
        if type(target) is not set:
            raise self.invalid("it adds to something that is no set")
        self.check_members(members)
        target.update(members)

    def frozenset_since_mark(self) -> None:
        members = self.since_mark()
        self.check_members(members)
        self.stack.append(frozenset(members))

    # What is named and called

    def global_lines(self) -> None:
        module = self.line().decode()
        self.stack.append(Global(module, self.line().decode()))

    def stack_global(self) -> None:
        name = self.stack.pop()
        module = self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise self.invalid("the name of a global is no text")
        self.stack.append(Global(module, name))

    def reduce(self) -> None:
        arguments = self.arguments()
        self.stack.append(self.call(self.stack.pop(), arguments, "REDUCE"))

    def newobj(self) -> None:
        arguments = self.arguments()
        self.stack.append(self.call(self.stack.pop(), arguments, "NEWOBJ"))

    def newobj_ex(self) -> None:
        keywords = self.stack.pop()
        if type(keywords) is not dict or any(type(name) is not str for name in keywords):
            raise self.invalid("the keywords of a call are no dict of names")
        arguments = self.arguments()
        call = self.call(self.stack.pop(), arguments, "NEWOBJ_EX")
        call.keywords = keywords
        self.stack.append(call)

    def inst(self) -> None:
        module = self.line().decode()
        function = Global(module, self.line().decode())
        taken = self.since_mark()
        self.stack.append(self.call(function, tuple(taken), "OBJ"))

    def obj(self) -> None:
        function, *arguments = self.since_mark() or [None]
        self.stack.append(self.call(function, tuple(arguments), "OBJ"))

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is not Call:
            raise self.invalid("it sets the state of something that has none")
        self.check_not_built(target)
        target.state = state
        target.built = True

    def persid_line(self) -> None:
        self.stack.append(PersistentId(self.line().decode()))

    def binpersid(self) -> None:
        self.stack[-1] = PersistentId(self.stack[-1])


def _text_of_python_2(data: bytes) -> str:
    """The strings of Python 2 have no encoding; nearly all of them are names, in ASCII."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


_OPCODES: Mapping[bytes, Callable[[_Reader], None]] = {
    pickle.PROTO: _Reader.proto,
    pickle.FRAME: _Reader.frame,
    pickle.MARK: _Reader.mark,
    pickle.POP: _Reader.pop,
    pickle.POP_MARK: _Reader.pop_mark,
    pickle.DUP: _Reader.dup,
    pickle.GET: _Reader.get,
    pickle.BINGET: _Reader.binget,
    pickle.LONG_BINGET: _Reader.long_binget,
    pickle.PUT: _Reader.put,
    pickle.BINPUT: _Reader.binput,
    pickle.LONG_BINPUT: _Reader.long_binput,
    pickle.MEMOIZE: _Reader.memoize,
    pickle.NONE: _Reader.none,
    pickle.NEWTRUE: _Reader.newtrue,
    pickle.NEWFALSE: _Reader.newfalse,
    pickle.INT: _Reader.int_line,
    pickle.LONG: _Reader.long_line,
    pickle.FLOAT: _Reader.float_line,
    pickle.BININT: _Reader.binint,
    pickle.BININT1: _Reader.binint1,
    pickle.BININT2: _Reader.binint2,
    pickle.LONG1: _Reader.long1,
    pickle.LONG4: _Reader.long4,
    pickle.BINFLOAT: _Reader.binfloat,
    pickle.UNICODE: _Reader.unicode_line,
    pickle.SHORT_BINUNICODE: _Reader.short_binunicode,
    pickle.BINUNICODE: _Reader.binunicode,
    pickle.BINUNICODE8: _Reader.binunicode8,
    pickle.STRING: _Reader.string_line,
    pickle.SHORT_BINSTRING: _Reader.short_binstring,
    pickle.BINSTRING: _Reader.binstring,
    pickle.SHORT_BINBYTES: _Reader.short_binbytes,
    pickle.BINBYTES: _Reader.binbytes,
    pickle.BINBYTES8: _Reader.binbytes8,
    pickle.BYTEARRAY8: _Reader.bytearray8,
    pickle.EMPTY_TUPLE: _Reader.empty_tuple,
    pickle.TUPLE1: _Reader.tuple1,
    pickle.TUPLE2: _Reader.tuple2,
    pickle.TUPLE3: _Reader.tuple3,
    pickle.TUPLE: _Reader.tuple_since_mark,
    pickle.EMPTY_LIST: _Reader.empty_list,
    pickle.LIST: _Reader.list_since_mark,
    pickle.APPEND: _Reader.append,
    pickle.APPENDS: _Reader.appends,
    pickle.EMPTY_DICT: _Reader.empty_dict,
    pickle.DICT: _Reader.dict_since_mark,
    pickle.SETITEM: _Reader.setitem,
    pickle.SETITEMS: _Reader.setitems,
    pickle.EMPTY_SET: _Reader.empty_set,
    pickle.ADDITEMS: _Reader.additems,
    pickle.FROZENSET: _Reader.frozenset_since_mark,
    pickle.GLOBAL: _Reader.global_lines,
    pickle.STACK_GLOBAL: _Reader.stack_global,
    pickle.REDUCE: _Reader.reduce,
    pickle.NEWOBJ: _Reader.newobj,
    pickle.NEWOBJ_EX: _Reader.newobj_ex,
    pickle.INST: _Reader.inst,
    pickle.OBJ: _Reader.obj,
    pickle.BUILD: _Reader.build,
    pickle.PERSID: _Reader.persid_line,
    pickle.BINPERSID: _Reader.binpersid,
    pickle.EXT1: _Reader.outside,
    pickle.EXT2: _Reader.outside,
    pickle.EXT4: _Reader.outside,
    pickle.NEXT_BUFFER: _Reader.outside,
    pickle.READONLY_BUFFER: _Reader.outside,
}
_STEPS = [_OPCODES.get(bytes([opcode]), _Reader.unknown) for opcode in range(256)]
