"""A ranking for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table

from recon_cli.artifacts.ranking import Ranking
from recon_cli.reporting.tables import add_row, bar, make_table, percent

if TYPE_CHECKING:
    from recon_cli.profiling.run import Leader


def ranking_view(ranking: Ranking) -> Iterable[RenderableType]:
    """A table of the layers in ranked order, with what the ranking knows of each."""
    if ranking.severity is not None:
        where = "the whole profile" if ranking.stage is None else f"stage {ranking.stage}"
        yield f"{len(ranking.layers)} shared layers by conflicts below cosine {ranking.severity:g}, {where} "
        yield f"({ranking.iterations} iterations of {', '.join(ranking.tasks or ())})"
        yield ""
    if any(layer.rate is None for layer in ranking.layers):
        table = make_table(">#", "layer", ">score")
        for place, layer in enumerate(ranking.layers, start=1):
            add_row(table, [place, layer.name, f"{layer.score:g}"])
    else:
        table = make_table(">#", "layer", ">score", ">rate", "", ">parameters")
        for place, layer in enumerate(ranking.layers, start=1):
            rate = layer.rate or 0.0
            add_row(table, [place, layer.name, f"{layer.score:g}", percent(rate), bar(rate), f"{layer.size:,}"])
    yield table


def ranking_remarks(ranking: Ranking) -> Iterable[str]:
    """What is worth saying about a ranking besides."""
    if ranking.source.complete is False:
        yield f"the profile ended early; the ranking is of the {ranking.iterations} iterations that were measured"
    if all(layer.score == 0 for layer in ranking.layers):
        yield "no layer has any conflict at this severity, so the layers stand in the model's own order"


def leaders_table(leaders: Sequence[Leader]) -> Table:
    """The layers that lead a profile so far."""
    table = make_table("leading layers", ">score", ">rate", "")
    for leader in leaders:
        add_row(table, [leader.name, leader.score, percent(leader.rate), bar(leader.rate)])
    return table
