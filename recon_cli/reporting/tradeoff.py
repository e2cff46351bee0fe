"""How much conflict can be removed for how many parameters and operations, for people."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import RenderableType

from recon_cli.artifacts.tradeoff import SplitCost, Tradeoff
from recon_cli.errors import number
from recon_cli.reporting.tables import Rows, table_of


def tradeoff_view(found: Tradeoff) -> Iterable[RenderableType]:
    """What can be removed within every pair of limits, and what the published choice removes."""
    yield "how many percent of the conflict a split can remove: for at most so many times"
    yield "the operations (rows), and at most so many further parameters (columns), in"
    yield f"percent of the {found.parameters:,} of the ranked layers"
    yield table_of(within_rows(found))
    yield ""
    yield "the first K layers of the ranking with a copy for every task, as published, and"
    yield "what removes the most conflict instead, for no more parameters and operations"
    yield table_of(published_rows(found))


def within_rows(found: Tradeoff) -> Rows:
    """A row for every limit of the operations, a column for every one of the parameters."""
    shares = list(dict.fromkeys(each.max_parameters for each in found.within))
    removed = {(each.max_operations, each.max_parameters): each.split.removed for each in found.within}
    columns = [">any" if share is None else f">{number(100 * share)}%" for share in shares]
    rows = [
        ["any" if ratio is None else f"{ratio:.2f}", *(_tenth(removed[ratio, share]) for share in shares)]
        for ratio in dict.fromkeys(each.max_operations for each in found.within)
    ]
    return Rows([">operations", *columns], rows)


def published_rows(found: Tradeoff) -> Rows:
    """What the published choice removes and costs at every K, and what can be removed instead."""
    rows = [
        [each.k, _tenth(each.split.removed), *_costs(each.split, found), _tenth(each.instead.removed),
         *_costs(each.instead, found)]
        for each in found.published
    ]  # fmt: skip
    costs = (">+param. %", ">oper.")
    return Rows([">K", ">removed %", *costs, ">instead %", *costs], rows)


def tradeoff_remarks(found: Tradeoff) -> Iterable[str]:
    """What is worth saying besides."""
    if all(each.max_operations is None for each in found.within):
        yield "what splits cost in operations is not known, as the ranking does not hold the network's data flow"


def _costs(split: SplitCost, found: Tradeoff) -> list[str]:
    operations = "" if split.operations is None else f"{split.operations:.2f}"
    return [f"{100 * split.parameters / found.parameters:.2f}", operations]


def _tenth(share: float) -> str:
    return f"{100 * share:.1f}"
