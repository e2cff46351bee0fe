"""What a pickle is made of once it is read: plain values of Python, and descriptions of what it names and calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias

from recon_cli.errors import ReconError, quoted

CallKind: TypeAlias = Literal["REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ"]
"""The instruction that a call was written with: `function(*arguments)`, or the ways to make an object of a class."""

Path: TypeAlias = tuple[object, ...]
"""The way from the root to a node: keys of mappings, indices of sequences, and `Part` for what else a node has."""

_NOTHING: Mapping[object, object] = MappingProxyType({})
_MAX_DEPTH = 1_000
_MAX_KEY_PARTS = 100
_MAX_KEY_BITS = 64


@dataclass(eq=False, slots=True)
class Global:
    """The name of something in a module; it was not looked up.

    :ivar full_name: module and name, as in `collections.OrderedDict`.
    """

    module: str
    name: str
    full_name: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.full_name = f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class PersistentId:
    """Something that lies outside the pickle, such as the bytes of a tensor, by what the pickle calls it."""

    value: object


class Call:
    """An object that the pickle would make with a call, which was not made.

    :ivar function: what it calls: a `Global`, what another call would give, or what lies outside the pickle.
    :ivar full_name: the function's, if it is a `Global`.
    :ivar arguments: the arguments by position.
    :ivar keywords: the arguments by name, which only `NEWOBJ_EX` has.
    :ivar elements: what it would append to the object.
    :ivar items: what it would then set by key, as with `OrderedDict` and other kinds of dict.
    :ivar built: whether it would then give the object a state (`__setstate__`).
    :ivar state: that state.
    """

    __slots__ = ("arguments", "built", "elements", "full_name", "function", "items", "keywords", "kind", "state")

    def __init__(self, function: object, arguments: tuple[object, ...] = (), kind: CallKind = "REDUCE") -> None:
        self.function = function
        self.full_name = function.full_name if type(function) is Global else None
        self.arguments = arguments
        self.kind = kind
        # Most calls have none of these; what they share instead of their own cannot be changed.
        self.keywords: Mapping[object, object] = _NOTHING
        self.elements: Sequence[object] = ()
        self.items: Mapping[object, object] = _NOTHING
        self.built = False
        self.state: object = None

    def __repr__(self) -> str:
        return f"Call({self.full_name or '...'})"

    def extend(self, elements: Iterable[object]) -> None:
        """Add to `elements`."""
        if not isinstance(self.elements, list):
            self.elements = []
        self.elements.extend(elements)

    def update(self, items: Iterable[tuple[object, object]]) -> None:
        """Add to `items`."""
        if not isinstance(self.items, dict):
            self.items = {}
        self.items.update(items)


@dataclass(frozen=True, slots=True)
class Part:
    """A step of a path into what is neither a mapping's value nor a sequence's element.

    :ivar index: the position of an argument or its name.
    """

    kind: Literal["function", "argument", "keyword", "state", "id", "member"]
    index: object = None

    def __str__(self) -> str:
        return f"<{self.kind}>" if self.index is None else f"<{self.kind} {self.index}>"


def is_key(node: object) -> bool:
    """Whether a node can be a key or a member of a set.

    Larger keys than any checkpoint has are none: hashing them could take any time, as nobody remembers a tuple's hash.
    """
    waiting = [node]
    parts = 0
    while waiting:
        part = waiting.pop()
        if isinstance(part, (tuple, frozenset)):
            parts += len(part)
            if parts > _MAX_KEY_PARTS:
                return False
            waiting.extend(part)
        elif isinstance(part, int):
            if part.bit_length() > _MAX_KEY_BITS:
                return False
        elif part is not None and not isinstance(part, (str, float, bytes, Global, Call, PersistentId)):
            return False
    return True


def items_of(node: object) -> list[tuple[object, object]] | None:
    """Keys and values of a dict, `OrderedDict`, `defaultdict` or `Counter` in their order; None for any other node."""
    if isinstance(node, dict):
        return list(node.items())
    if not isinstance(node, Call) or node.kind not in ("REDUCE", "NEWOBJ") or node.elements:
        return None
    begin: object
    if node.full_name == "collections.defaultdict":
        begin = {} if len(node.arguments) <= 1 else None
    elif node.full_name in ("collections.OrderedDict", "collections.Counter"):
        begin = {} if not node.arguments else node.arguments[0] if len(node.arguments) == 1 else None
    else:
        return None
    pairs = _pairs(begin)
    return None if pairs is None else list({**pairs, **node.items}.items())


def _pairs(node: object) -> dict[object, object] | None:
    """What `dict(node)` would be, for a dict or a list of pairs, which Python 2 wrote for an `OrderedDict`."""
    if isinstance(node, dict):
        return node
    if not isinstance(node, list):
        return None
    if not all(isinstance(pair, (tuple, list)) and len(pair) == 2 and is_key(pair[0]) for pair in node):
        return None
    return {key: value for key, value in node}  # noqa: C416  mypy knows no dict() of lists of pairs


def path_text(path: Path) -> str:
    """A path as messages show it, such as `optimizer.state.0.exp_avg`."""
    return ".".join(str(step)[:100] for step in path)


def walk(
    root: object, what: str, *, enter: Callable[[object], bool] = lambda _: True, repeats: int = 1_000_000
) -> Iterator[tuple[Path, object]]:
    """Every node that can be reached from a root, each by all its paths, in the order of the pickle.

    Keys of mappings are not walked.

    :param what: what messages call the pickle.
    :param enter: whether to go on to what a node holds.
    :param repeats: how many nodes may be met again, so that a few bytes cannot unfold to more than anyone can wait for.
    :raises ReconError: if a node holds itself, or there are too many repetitions or levels.
    """
    entered: list[int] = []
    inside: set[int] = set()
    seen: set[int] = set()
    # For each open node its parts to come, and whether it was open before.
    levels: list[tuple[Iterator[tuple[Path, object]], bool]] = [(iter([((), root)]), False)]
    while levels:
        parts, again = levels[-1]
        entry = next(parts, None)
        if entry is None:
            levels.pop()
            if entered:
                inside.discard(entered.pop())
            continue
        path, node = entry
        if again:
            repeats -= 1
            if repeats < 0:
                raise ReconError(f"{what} repeats the same parts too often, first at {quoted(path_text(path))}")
        yield path, node
        if type(node) in _LEAVES or not enter(node):
            continue
        identity = id(node)
        if identity in inside:
            raise ReconError(f"{what} holds an object that contains itself, at {quoted(path_text(path))}")
        if len(path) > _MAX_DEPTH:
            raise ReconError(f"{what} is nested too deeply: more than {_MAX_DEPTH} levels")
        entered.append(identity)
        inside.add(identity)
        levels.append((_with_paths(path, _parts_of(node)), identity in seen))
        seen.add(identity)


_LEAVES = frozenset({type(None), bool, int, float, str, bytes, bytearray, Global})


def _with_paths(path: Path, parts: Iterable[tuple[object, object]]) -> Iterator[tuple[Path, object]]:
    return (((*path, step), part) for step, part in parts)


def _parts_of(node: object) -> Iterator[tuple[object, object]]:
    if isinstance(node, dict):
        yield from node.items()
    elif isinstance(node, (list, tuple)):
        yield from enumerate(node)
    elif isinstance(node, (set, frozenset)):
        yield from ((Part("member"), member) for member in node)
    elif isinstance(node, PersistentId):
        yield Part("id"), node.value
    elif isinstance(node, Call):
        yield Part("function"), node.function
        yield from ((Part("argument", index), value) for index, value in enumerate(node.arguments))
        yield from ((Part("keyword", name), value) for name, value in node.keywords.items())
        yield from enumerate(node.elements)
        yield from node.items.items()
        if node.built:
            yield Part("state"), node.state
