"""What differs between two checkpoints, for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import RenderableType
from rich.table import Table

from recon_cli.artifacts.difference import CheckpointDifference, Distance, Form, TensorDifference
from recon_cli.errors import counted
from recon_cli.reporting.tables import add_row, make_table, percent

_SHOWN = 50


def difference_view(found: CheckpointDifference) -> Iterable[RenderableType]:
    """What is only in one of them, and what differs, the most different first."""
    yield f"A: {found.a}"
    yield f"B: {found.b}"
    yield f"{counted(found.same, 'tensor')} the same, bit for bit"
    for side, keys in (("A", found.only_a), ("B", found.only_b)):
        if keys:
            yield ""
            yield f"{counted(len(keys), 'tensor')} in {side} only:"
            yield from (f"  {key}" for key in keys[:_SHOWN])
            yield from _more(keys)
    if found.forms:
        yield ""
        yield f"{counted(len(found.forms), 'tensor')} of another type or shape:"
        yield _forms(found.forms[:_SHOWN])
        yield from _more(found.forms)
    if found.values:
        yield ""
        yield f"{counted(len(found.values), 'tensor')} of other values:"
        yield _values(found.values[:_SHOWN])
        yield from _more(found.values)


def difference_remarks(found: CheckpointDifference) -> Iterable[str]:
    """What is worth saying about a comparison besides."""
    for side, prefix in (("A", found.prefix_a), ("B", found.prefix_b)):
        if prefix:
            yield f"all names of {side} begin with `{prefix}`, which is passed over"


def _forms(differences: Sequence[TensorDifference]) -> Table:
    table = make_table("tensor", "A", "B", ">|A - B|", ">of |A|")
    for each in differences:
        add_row(table, [each.key, _form(each.a), _form(each.b), *_apart(each.distance)])
    return table


def _values(differences: Sequence[TensorDifference]) -> Table:
    columns = (">|A|", ">|B|", ">|A - B|", ">of |A|", ">largest", ">elements", ">NaN or inf")
    table = make_table("tensor", "type", *columns)
    for each in differences:
        found = each.distance
        cells: list[object] = [each.key, _form(each.a)]
        if found is not None:
            cells += [_number(found.norm_a), _number(found.norm_b), *_apart(found), _number(found.largest)]
            cells += [f"{found.elements:,}", found.non_finite or ""]
        add_row(table, cells)
    return table


def _apart(found: Distance | None) -> list[str]:
    if found is None:
        return ["", ""]
    return [_number(found.norm), "" if found.relative is None else percent(found.relative)]


def _number(value: float | None) -> str:
    return "beyond float64" if value is None else f"{value:.4g}"


def _form(form: Form) -> str:
    return f"{form.dtype} {list(form.shape)}"


def _more(items: Sequence[object]) -> Iterable[str]:
    if len(items) > _SHOWN:
        yield f"  and {len(items) - _SHOWN} more, which --json lists"
