"""Finding the weights in what `torch.save` wrote: a state dict, alone or somewhere in a training checkpoint."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from recon_cli.checkpoints.pickles.nodes import Call, Global, Part, Path, PersistentId, items_of, path_text, walk
from recon_cli.checkpoints.torch_files.tensor_nodes import REBUILDERS, is_plain_tensor, is_storage_class, is_tensor
from recon_cli.errors import ReconError, did_you_mean, listed, quoted

PREFERRED = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "params", "weights")
"""What the weights are called in a training checkpoint, as far as people agree; the first one there is taken."""

OPTIMIZER = "param_groups"


def _builtins(*names: str) -> set[str]:
    """Built-in classes by their names in pickles of Python 3 and, as in those of protocol 2, of Python 2."""
    return {f"{module}.{name}" for name in names for module in ("builtins", "__builtin__")}


_BUFFERS = _builtins("bytearray")

CALLED = frozenset({
    *REBUILDERS, *_builtins("set", "frozenset", "complex", "bytearray"),
    "collections.OrderedDict", "collections.defaultdict", "collections.Counter",
    "_codecs.encode", "torch.Size", "torch.device", "torch.serialization._get_layout",
})  # fmt: skip
"""What a checkpoint's pickle may call: containers, and what tensors are made with."""

NAMED = frozenset({
    *CALLED, *_builtins("bool", "int", "float", "str", "bytes", "tuple", "list", "dict"),
    "torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer",
})  # fmt: skip
"""What it may name besides types and storages: classes of tensors, and what a `defaultdict` begins with."""

_HASHABLE = {*_builtins("frozenset", "complex"), "torch.Size", "torch.device", "_codecs.encode"}

_TYPE = re.compile(r"bool|(b?float|complex|u?int|bits|qu?int)[0-9][a-z0-9_]*|per_(tensor|channel)_[a-z_]+")
"""What torch calls the types of elements, those that Recon does not read among them, and ways to quantise."""


@dataclass(frozen=True)
class StateDict:
    """A mapping from names to tensors within a file.

    :ivar path: the way to it; empty if the file is nothing else.
    :ivar items: its names and nodes.
    """

    path: Path
    items: Sequence[tuple[object, object]]

    @property
    def key(self) -> str:
        """Its path as `--key` takes it."""
        return path_text(self.path)

    @property
    def tensors(self) -> list[tuple[str, object]]:
        """The names and nodes of its tensors; others, such as the extra state of a module, are left out."""
        return [(str(key), node) for key, node in self.items if is_tensor(node)]


@dataclass(frozen=True)
class Refusal:
    """A part of a file for which Recon does not open it.

    :ivar path: where it is.
    :ivar reason: what it is, completing `it is ...`.
    """

    path: Path
    reason: str


def choose_weights(root: object, what: str, key: str | None = None) -> StateDict:
    """The weights of a file, and the check that nothing in the file is foreign.

    :param what: what messages call the file.
    :param key: the path of the weights. With it, the rest of the file may hold anything, since it is not read.
    :raises ReconError: if there are none, or several that could be meant; if anything that is read is no plain data.
    """
    base = _base(root, what, key)
    part = follow(root, base)
    foreign = next(_find_refusals(part, what), None)
    if foreign is not None:
        raise _foreign(Refusal((*base, *foreign.path), foreign.reason), root, what, key)
    found = state_dicts(part, what)
    if not found:
        raise ReconError(
            f"{what} holds no state dict: no mapping from names to tensors",
            "save the weights: `torch.save(model.state_dict(), path)`",
        )
    chosen = preferred(found)
    if chosen is None:
        known = [path_text((*base, *each.path)) for each in found]
        raise ReconError(f"{what} holds several state dicts: {listed(known)}", "choose one with --key")
    return StateDict((*base, *chosen.path), chosen.items)


def candidates(root: object, what: str, key: str | None = None) -> list[StateDict]:
    """The state dicts of a file, or of the part of it under a key.

    :raises ReconError: if there is nothing under the key.
    """
    base = _base(root, what, key)
    return [StateDict((*base, *each.path), each.items) for each in state_dicts(follow(root, base), what)]


def _base(root: object, what: str, key: str | None) -> Path:
    return () if key is None else _find(root, key, what)


def state_dicts(root: object, what: str) -> list[StateDict]:
    """Every mapping of which at least half is tensors by their names, and which is no part of an optimizer's state."""
    found = []
    optimizers: list[Path] = []
    for path, node in walk(root, what, enter=_is_container):
        items = items_of(node)
        if items is None or any(path[: len(outer)] == outer for outer in optimizers):
            continue
        if any(key == OPTIMIZER for key, _ in items):
            optimizers.append(path)
            continue
        count = sum(is_tensor(value) for _, value in items)
        if count and 2 * count >= len(items) and all(isinstance(key, str) for key, _ in items):
            found.append(StateDict(path, items))
    return found


def preferred(found: Sequence[StateDict]) -> StateDict | None:
    """The one among several state dicts that is called as the weights of a model usually are; None if none is."""
    if len(found) == 1 or (found and not found[0].path):
        return found[0]
    for name in PREFERRED:
        named = [each for each in found if each.path[-1] == name]
        nearest = [each for each in named if len(each.path) == min(len(other.path) for other in named)]
        if len(nearest) == 1:
            return nearest[0]
    return None


def refusals(root: object, what: str, known: Callable[[Global], bool] = lambda _: False) -> list[Refusal]:
    """What is neither plain data nor a tensor.

    :param known: what else the pickle may name.
    """
    return list(_find_refusals(root, what, known))


def _find_refusals(root: object, what: str, known: Callable[[Global], bool] = lambda _: False) -> Iterator[Refusal]:
    """The same one by one: the first one is found also where the foreign part contains itself."""
    for path, node in walk(root, what, enter=lambda node: not is_plain_tensor(node)):
        place = tuple(step for step in path if not isinstance(step, Part))
        reason = None if isinstance(node, Global) and known(node) else _reason(node)
        if reason:
            yield Refusal(place, reason)
        for key in _inert_keys(node):
            reasons = [refusal.reason for refusal in refusals(key, what)]
            if not reasons and not _is_hashable(key):
                reasons = ["a container"]
            yield from (Refusal(place, f"a mapping with a key that is {reason}") for reason in reasons)


def _reason(node: object) -> str | None:
    """Why a node is no plain data, completing `it is ...`; None if it is, as far as itself is concerned."""
    if isinstance(node, Global):
        return None if _is_allowed(node) else f"a {quoted(node.full_name)}"
    if not isinstance(node, Call):
        return None
    if node.full_name is None:
        return None if _names_a_class(node.function) else "what a computed function would give"
    if node.full_name in _BUFFERS and any(isinstance(argument, int) for argument in node.arguments):
        return "a buffer whose bytes are not in the file"
    if node.full_name not in CALLED and _is_allowed(node.function):
        return f"a call of {quoted(node.full_name)}"
    return None


def _names_a_class(function: object) -> bool:
    """Whether this is how files of the older form name the class of a module; the class itself is refused then."""
    value = function.value if isinstance(function, PersistentId) else None
    return isinstance(value, tuple) and any(isinstance(part, Global) and not _is_allowed(part) for part in value)


def _is_hashable(key: object) -> bool:
    if isinstance(key, (tuple, frozenset)):
        return all(_is_hashable(part) for part in key)
    return not isinstance(key, Call) or key.full_name in _HASHABLE


def _inert_keys(node: object) -> list[object]:
    """The keys of a mapping that are no numbers or text; walking passes over keys."""
    keys = node if isinstance(node, dict) else node.items if isinstance(node, Call) else ()
    return [key for key in keys if isinstance(key, (Global, Call, PersistentId, tuple, frozenset))]


def follow(root: object, path: Path) -> object:
    """The node at the end of a path."""
    for step in path:
        items = items_of(root)
        root = dict(items)[step] if items is not None else root[step]  # type: ignore[index]
    return root


def beside(root: object, path: Path) -> list[Path]:
    """What lies beside a node, and beside each of the containers that hold it."""
    found: list[Path] = []
    for depth, step in enumerate(path):
        keys = _steps(follow(root, path[:depth]))
        found += [(*path[:depth], key) for key in keys if key != step]
    return found


def _is_container(node: object) -> bool:
    return isinstance(node, (dict, list, tuple)) or items_of(node) is not None


def _is_allowed(name: object) -> bool:
    if not isinstance(name, Global):
        return False
    is_type = name.module == "torch" and _TYPE.fullmatch(name.name) is not None
    return name.full_name in NAMED or is_type or is_storage_class(name)


def _find(root: object, key: str, what: str) -> Path:
    """The path that a text means; names may hold dots themselves."""
    path: list[object] = []
    rest, node = key, root
    while rest:
        steps = _steps(node)
        fitting = [step for step in steps if rest == str(step) or rest.startswith(f"{step}.")]
        if not fitting:
            known = [each.key for each in state_dicts(root, what) if each.path]
            raise ReconError(
                f"{what} has nothing under {quoted(key)}",
                did_you_mean(key, known) or (f"its state dicts: {listed(known)}" if known else None),
            )
        step = max(fitting, key=lambda step: len(str(step)))
        path.append(step)
        node = follow(node, (step,))
        rest = rest[len(str(step)) + 1 :]
    return tuple(path)


def _steps(node: object) -> list[object]:
    items = items_of(node)
    if items is not None:
        return [key for key, _ in items]
    return list(range(len(node))) if isinstance(node, (list, tuple)) else []


def _foreign(refusal: Refusal, root: object, what: str, key: str | None) -> ReconError:
    place = f"{quoted(path_text(refusal.path))} of {what}" if refusal.path else what
    hint = "save the weights alone: `torch.save(model.state_dict(), path)`"
    if key is None:
        clean = [each for each in state_dicts(root, what) if each.path and not refusals(follow(root, each.path), what)]
        chosen = preferred(clean) if clean else None
        if chosen:
            option = f"--key {shlex.quote(chosen.key)}"
            hint = f"pass `{option}` to take the weights alone; nothing else in the file is opened then"
    return ReconError(
        f"{place} is {refusal.reason}, which is neither plain data nor a tensor, so it is not opened", hint
    )
