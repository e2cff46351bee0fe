"""What is in a file, for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import RenderableType
from rich.table import Table

from recon_cli.artifacts.document import Document
from recon_cli.artifacts.inspection import (
    InspectedCheckpoint,
    InspectedDocument,
    InspectedFile,
    InspectedLayer,
    InspectedStateDict,
    InspectedTensor,
    Inspection,
)
from recon_cli.artifacts.ranking import Ranking
from recon_cli.artifacts.scores import Scores
from recon_cli.errors import counted, listed, quoted
from recon_cli.reporting.ranking import heat_of_ranking
from recon_cli.reporting.scores import heat_of_scores
from recon_cli.reporting.tables import add_row, make_table, readable_bytes

_ROWS = 100
_LONGEST_TEXT = 100


def inspection_view(inspection: Inspection, *, whole: bool = False) -> Iterable[RenderableType]:
    """What a file holds.

    :param whole: whether every tensor is listed, and nothing is left out of long lists.
    """
    limit = None if whole else _ROWS
    if inspection.document is not None:
        yield f"{inspection.name}: {inspection.document.document_schema}, {readable_bytes(inspection.bytes)}"
        yield ""
        yield _facts(inspection.document)
        yield from _heat(inspection.document.document)
    if inspection.checkpoint is not None:
        found = inspection.checkpoint
        yield f"{inspection.name}: {found.format}, {readable_bytes(inspection.bytes)}"
        yield from _refusal(found)
        yield from _text_beside(found, limit)
        yield from _files(inspection.files, limit)
        yield from _state_dicts(found.state_dicts, limit)
        yield from _weights(found, limit)
        yield from _entries(found, limit)
        yield from _foreign(found, limit)


def _facts(document: InspectedDocument) -> Table:
    table = make_table("", "")
    table.show_header = False
    for fact, value in document.facts.items():
        add_row(table, [fact, value])
    return table


def _heat(document: Document | None) -> Iterable[RenderableType]:
    """Where in the network the conflicts are, if the document says so."""
    strip = None
    if isinstance(document, Scores):
        strip = heat_of_scores(document)
    elif isinstance(document, Ranking):
        strip = heat_of_ranking(document)
    if strip is not None:
        yield ""
        yield strip


def _refusal(found: InspectedCheckpoint) -> Iterable[str]:
    if found.refusal is None:
        return
    yield f"would be refused: {found.refusal.message}"
    if found.refusal.hint:
        yield f"hint: {found.refusal.hint}"


def _text_beside(found: InspectedCheckpoint, limit: int | None) -> Iterable[str]:
    """The metadata, and what the manifest says."""
    texts = [
        f"{key} = {text}"
        if limit is None or len(text) <= _LONGEST_TEXT
        else f"{key}: {len(text):,} characters, which --tensors shows"
        for key, text in found.metadata.items()
    ]
    yield from _lines("metadata", texts, limit)
    if found.branching is not None:
        made = found.branching
        yield ""
        yield f"branched from {quoted(made.source.name)} for {', '.join(made.tasks)}"
        yield from _lines("split layers", [" = ".join((each.name, *each.aliases)) for each in made.layers], limit)
        own = [each.name for each in made.statistics or ()]
        yield from _lines("running statistics for every stream", own, limit)


def _files(files: Sequence[InspectedFile], limit: int | None) -> Iterable[RenderableType]:
    if len(files) < 2:
        return
    table = make_table("file", ">size", "")
    for file in files[:limit]:
        add_row(table, [file.name, "" if file.bytes is None else readable_bytes(file.bytes), file.problem or ""])
    yield from _table(table, len(files), limit, "file")


def _state_dicts(state_dicts: Sequence[InspectedStateDict], limit: int | None) -> Iterable[RenderableType]:
    if not any(each.key for each in state_dicts):
        return
    table = make_table("state dict", ">tensors", ">parameters", ">size", "")
    for each in state_dicts[:limit]:
        key = each.key or "(the whole file)"
        sizes = (each.tensors, f"{each.parameters:,}", readable_bytes(each.bytes))
        add_row(table, [key, *sizes, "taken" if each.taken else ""])
    yield from _table(table, len(state_dicts), limit, "state dict")
    if len(state_dicts) > 1:
        yield "--key takes another one" if any(each.taken for each in state_dicts) else "choose one with --key"


def _weights(found: InspectedCheckpoint, limit: int | None) -> Iterable[RenderableType]:
    taken = next((each for each in found.state_dicts if each.taken), None)
    if taken is None:
        return
    tensors = [tensor for layer in found.layers for tensor in layer.tensors]
    yield ""
    yield (
        f"{counted(len(tensors), 'tensor')} in {counted(len(found.layers), 'layer')}: "
        f"{taken.parameters:,} parameters, {readable_bytes(taken.bytes)}"
    )
    if found.prefix:
        yield f"every name begins with {quoted(found.prefix)}, which wrappers put there"
    yield from _layers(found.layers, limit) if limit is not None else _tensors(tensors)
    yield from _lines("tied", _tied(tensors), limit)
    problems = [f"{tensor.key} is {tensor.problem}" for tensor in tensors if tensor.problem is not None]
    yield from _lines("not plain tensors", problems, limit)
    storages = [f"{readable_bytes(each.bytes)}: {', '.join(each.tensors)}" for each in found.storages]
    yield from _lines("views of one storage, or of a part of one", storages, limit)


def _layers(layers: Sequence[InspectedLayer], limit: int) -> Iterable[RenderableType]:
    table = make_table("layer", "largest tensor", "type", ">tensors", ">parameters", ">size")
    for layer in layers[:limit]:
        largest = max(layer.tensors, key=lambda tensor: tensor.bytes or 0)
        types = ", ".join(dict.fromkeys(tensor.dtype or "?" for tensor in layer.tensors))
        sizes = (len(layer.tensors), f"{layer.parameters:,}", readable_bytes(layer.bytes))
        add_row(table, [layer.name, _shape(largest), types, *sizes])
    yield ""
    yield table
    left = layers[limit:]
    if left:
        size = readable_bytes(sum(layer.bytes for layer in left))
        parameters = sum(layer.parameters for layer in left)
        yield f"and {counted(len(left), 'more layer')}: {parameters:,} parameters, {size}; --tensors lists all"


def _tensors(tensors: Sequence[InspectedTensor]) -> Iterable[RenderableType]:
    table = make_table("tensor", "shape", "type", ">size")
    for tensor in tensors:
        size = "" if tensor.bytes is None else readable_bytes(tensor.bytes)
        add_row(table, [tensor.key, _shape(tensor), tensor.dtype or "?", size])
    yield ""
    yield table


def _shape(tensor: InspectedTensor) -> str:
    return "?" if tensor.shape is None else str(list(tensor.shape))


def _tied(tensors: Sequence[InspectedTensor]) -> list[str]:
    groups: dict[str, list[str]] = {}
    for tensor in tensors:
        if tensor.tied is not None:
            groups.setdefault(tensor.tied, [tensor.tied]).append(tensor.key)
    return [" = ".join(group) for group in groups.values()]


def _entries(found: InspectedCheckpoint, limit: int | None) -> Iterable[RenderableType]:
    if not found.entries:
        return
    table = make_table("beside the weights" if found.layers else "entry", "what it is", ">tensors", ">size")
    for entry in found.entries[:limit]:
        sizes = (entry.tensors or "", readable_bytes(entry.bytes) if entry.bytes else "")
        add_row(table, [entry.path or "(the whole file)", entry.kind, *sizes])
    yield from _table(table, len(found.entries), limit, "entry", "entries")


def _foreign(found: InspectedCheckpoint, limit: int | None) -> Iterable[RenderableType]:
    """What is neither plain data nor a tensor: each kind of it with the places where it lies."""
    places: dict[str, list[str]] = {}
    for part in found.foreign:
        places.setdefault(part.what.removeprefix("a "), []).append(part.path or "(the whole file)")
    table = make_table("neither plain data nor a tensor", "at")
    for what, paths in list(places.items())[:limit]:
        add_row(table, [what, listed(paths, limit=5 if limit is not None else len(paths))])
    if places:
        yield from _table(table, len(places), limit, "kind")


def _table(
    table: Table, count: int, limit: int | None, noun: str, plural: str | None = None
) -> Iterable[RenderableType]:
    yield ""
    yield table
    yield from _rest(count, limit, noun, plural)


def _lines(title: str, lines: Sequence[str], limit: int | None) -> Iterable[str]:
    if not lines:
        return
    yield ""
    yield f"{title}:"
    for line in lines[:limit]:
        yield f"  {line}"
    yield from _rest(len(lines), limit, "line")


def _rest(count: int, limit: int | None, noun: str, plural: str | None = None) -> Iterable[str]:
    """How much a list leaves out."""
    if limit is not None and count > limit:
        more = count - limit
        yield f"and {more} more {noun if more == 1 else plural or noun + 's'}; --tensors lists all"
