"""What lies in a torch file beside its state dicts: an optimizer's state, counters, arguments, and what is foreign."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from recon_cli.checkpoints.pickles.nodes import Call, Global, Path, PersistentId, items_of, path_text, walk
from recon_cli.checkpoints.tensors import Entry
from recon_cli.checkpoints.torch_files.content import TorchContent
from recon_cli.checkpoints.torch_files.tensor_nodes import NotPlainError, as_view, is_tensor, storage_name
from recon_cli.checkpoints.torch_files.weights import OPTIMIZER, StateDict, state_dicts
from recon_cli.errors import counted, quoted

_LONGEST_VALUE = 60


def entries_beside(content: TorchContent, what: str) -> list[Entry]:
    """All parts of a file that belong to none of its state dicts; together with these they are the whole file.

    :param what: what messages call the file.
    :raises ReconError: if the file cannot be walked.
    """
    found = state_dicts(content.root, what)
    return [_entry(path, node, content, what) for path, node in _beside(content.root, found)]


def _beside(root: object, found: Sequence[StateDict]) -> Iterator[tuple[Path, object]]:
    """The parts that are in no state dict, each as large as it can be."""
    taken = {each.path for each in found}
    on_the_way: set[Path] = {(), *(each.path[:length] for each in found for length in range(len(each.path) + 1))}
    waiting: list[tuple[Path, object]] = [((), root)]
    while waiting:
        path, node = waiting.pop()
        parts = _parts(node) if path in on_the_way else None
        if parts is not None:
            waiting.extend(reversed([((*path, step), part) for step, part in parts]))
        elif not (path[:-1] in taken and is_tensor(node)):
            yield path, node


def _parts(node: object) -> Iterable[tuple[object, object]] | None:
    return enumerate(node) if isinstance(node, (list, tuple)) else items_of(node)


def _entry(path: Path, node: object, content: TorchContent, what: str) -> Entry:
    tensors = sum(is_tensor(part) for _, part in walk(node, what, enter=lambda part: not is_tensor(part)))
    return Entry(path_text(path), describe(node), tensors, _bytes(node, content, what))


def _bytes(node: object, content: TorchContent, what: str) -> int:
    storages: dict[str, int] = {}
    binary = 0
    for _, part in walk(node, what):
        if isinstance(part, (bytes, bytearray)):
            binary += len(part)
        elif isinstance(part, PersistentId):
            try:
                storage = storage_name(part)
                storages[storage.key] = content.extent(storage).bytes
            except NotPlainError:
                continue
    return binary + sum(storages.values())


def describe(node: object) -> str:
    """What a node is, in a few words; the value too if it is a number or a short text."""
    if isinstance(node, Global):
        return f"the name {quoted(node.full_name)}"
    if is_tensor(node):
        return _describe_tensor(node)
    items = items_of(node)
    if items is not None:
        return "state of an optimizer" if any(key == OPTIMIZER for key, _ in items) else f"dict of {len(items)}"
    if isinstance(node, Call):
        return f"object of {quoted(node.full_name)}" if node.full_name else "object of a computed function"
    if isinstance(node, (list, tuple, set, frozenset)):
        return f"{type(node).__name__} of {len(node)}"
    if isinstance(node, (str, bytes, bytearray)) and len(node) > _LONGEST_VALUE:
        return f"{type(node).__name__} of {counted(len(node), 'character' if isinstance(node, str) else 'byte')}"
    if isinstance(node, int) and node.bit_length() > 4 * _LONGEST_VALUE:
        return f"int of {node.bit_length()} bits"
    if node is None or isinstance(node, (str, bytes, bytearray, int, float)):
        return repr(node)
    return "a storage" if isinstance(node, PersistentId) else type(node).__name__


def _describe_tensor(node: object) -> str:
    try:
        view = as_view(node)
    except NotPlainError as problem:
        return f"tensor, {problem}"
    return "tensor" if view is None else f"tensor {view.dtype} {list(view.shape)}"
