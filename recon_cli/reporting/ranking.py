"""A ranking for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table

from recon_cli.artifacts.ranking import Ranking
from recon_cli.errors import counted, number
from recon_cli.reporting.heat import BarredTable, HeatStrip, relative
from recon_cli.reporting.tables import Rows, add_row, bar, make_table, percent, percent_interval

if TYPE_CHECKING:
    from recon_cli.profiling.leaders import Leader


def ranking_view(ranking: Ranking) -> Iterable[RenderableType]:
    """A table of the layers in ranked order, with what the ranking knows of each."""
    if ranking.severity is not None:
        where = "the whole profile" if ranking.stage is None else f"stage {ranking.stage}"
        layers, iterations = counted(len(ranking.layers), "shared layer"), counted(ranking.iterations or 0, "iteration")
        yield f"{layers} by conflicts below cosine {number(ranking.severity)}"
        yield f"in {where}: {iterations} of {', '.join(ranking.tasks or ())}"
        yield ""
    strip = heat_of_ranking(ranking)
    if strip is not None:
        yield strip
        yield ""
    yield BarredTable(ranking_rows(ranking), relative([layer.score for layer in ranking.layers]))


def ranking_rows(ranking: Ranking) -> Rows:
    """The layers in ranked order, with what the ranking knows of each."""
    places = list(enumerate(ranking.layers, start=1))
    if any(layer.rate is None for layer in ranking.layers):
        return Rows([">#", "layer", ">score"], [[place, layer.name, number(layer.score)] for place, layer in places])
    rows = []
    for place, layer in places:
        rate, interval = percent(layer.rate or 0.0), percent_interval(layer.interval) if layer.interval else ""
        rows.append([place, layer.name, number(layer.score), rate, interval, f"{layer.size:,}"])
    return Rows([">#", "layer", ">score", ">rate", ">95% interval", ">parameters"], rows)


def heat_of_ranking(ranking: Ranking) -> HeatStrip | None:
    """The scores along the network; None if its order is not known, or no layer has a score."""
    layers = sorted(ranking.layers, key=lambda layer: layer.position or 0)
    highest = ranking.layers[0].score
    if highest <= 0 or any(layer.position is None for layer in layers):
        return None
    names, scores = [layer.name for layer in layers], [layer.score for layer in layers]
    return HeatStrip("score", names, relative(scores), number(highest))


def ranking_warnings(ranking: Ranking) -> Iterable[str]:
    """What makes a ranking one that is probably not wanted."""
    if ranking.severity == 0:
        yield "at severity 0 all rates come to about one half, so the order is mostly noise; take `-S -0.02` or below"


def ranking_remarks(ranking: Ranking) -> Iterable[str]:
    """What is worth saying about a ranking besides."""
    if ranking.source.complete is False:
        yield f"the profile ended early; the ranking is of the {ranking.iterations} iterations that were measured"
    left_out = sum(layer.non_finite or 0 for layer in ranking.layers)
    if left_out:
        yield f"{counted(left_out, 'pair')} of gradients held NaN or an infinity and are not counted"
    elif all(layer.score == 0 for layer in ranking.layers):
        yield "no layer has any conflict at this severity, so the layers stand in the model's own order"


def leaders_table(leaders: Sequence[Leader]) -> Table:
    """The layers that lead a profile so far."""
    title = f"cos < {number(leaders[0].severity)}" if leaders else "rate"
    table = make_table("leading layers", ">conflicts", f">{title}", "")
    for leader in leaders:
        add_row(table, [leader.name, leader.score, percent(leader.rate), bar(leader.rate)])
    return table
