"""A ranking for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table

from recon_cli.artifacts.ranking import Ranking, Stability
from recon_cli.errors import counted, listed, number
from recon_cli.ranking.kinds import CONFLICTS, KINDS
from recon_cli.reporting.heat import BarredTable, HeatStrip, relative
from recon_cli.reporting.tables import Rows, add_row, bar, make_table, percent, percent_interval

if TYPE_CHECKING:
    from recon_cli.profiling.leaders import Leader
    from recon_cli.ranking.transfer import Transfer


def ranking_view(ranking: Ranking) -> Iterable[RenderableType]:
    """A table of the layers in ranked order, with what the ranking knows of each."""
    if ranking.iterations is not None:
        where = "the whole profile" if ranking.stage is None else f"stage {ranking.stage}"
        layers, iterations = counted(len(ranking.layers), "shared layer"), counted(ranking.iterations or 0, "iteration")
        yield f"{layers} by {_kind_words(ranking)}"
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
        return Rows(
            [">#", "layer", ">score"], [[place, layer.name, _score_text(layer.score)] for place, layer in places]
        )
    rows = []
    for place, layer in places:
        rate, interval = percent(layer.rate or 0.0), percent_interval(layer.interval) if layer.interval else ""
        size = "" if layer.size is None else f"{layer.size:,}"
        rows.append([place, layer.name, _score_text(layer.score), rate, interval, size])
    return Rows([">#", "layer", ">score", ">rate", ">95% interval", ">parameters"], rows)


def heat_of_ranking(ranking: Ranking) -> HeatStrip | None:
    """The scores along the network; None if its order is not known, or no layer has a score."""
    layers = sorted(ranking.layers, key=lambda layer: layer.position or 0)
    highest = ranking.layers[0].score
    if highest <= 0 or any(layer.position is None for layer in layers):
        return None
    names, scores = [layer.name for layer in layers], [layer.score for layer in layers]
    return HeatStrip("score", names, relative(scores), _score_text(highest))


def kinds_view() -> Iterable[RenderableType]:
    """What each score is, and when to take it."""
    for kind in KINDS.values():
        yield kind.name
        yield f"  {kind.words};"
        yield f"  {kind.use}."
        yield ""


def transfer_remarks(found: Transfer) -> Iterable[str]:
    """Which layers the two networks do not have in common."""
    if found.left_out:
        yield f"the other network has not {listed(found.left_out)}; left out"
    if found.unplaced:
        yield f"the ranking does not tell of {listed(found.unplaced)}, which the other network has; not ranked"


def stability_view(ranking: Ranking) -> Iterable[RenderableType]:
    """How certain the places of the layers are."""
    stability = ranking.stability
    if stability is None:
        return
    k = stability.k
    yield ""
    yield (
        f"Of their first {counted(k, 'layer')}, two random halves of the profile share "
        f"{number(round(stability.overlap * k, 1))} in the mean;"
    )
    yield "two profiles as long as this one would share more, unless these are all."
    yield ""
    table = make_table(">#", "layer", f">in the first {k}", ">95% of places", ">tier")
    for place, layer in enumerate(ranking.layers, start=1):
        first, last = layer.places or (place, place)
        add_row(table, [place, layer.name, percent(layer.in_top or 0.0), f"{first} to {last}", layer.tier])
    yield table
    yield "Layers of one tier cannot be told apart from the first of it."


def _score_text(score: float) -> str:
    """Counts in full, other scores as far as a table has room for them."""
    return number(score) if score.is_integer() else f"{score:.6g}"


def _kind_words(ranking: Ranking) -> str:
    if ranking.z_bound is not None:
        return f"the score z: how often cos sqrt(d) is below {number(ranking.z_bound)}"
    below = f"below cosine {number(ranking.severity or 0.0)}"
    return f"conflicts {below}" if ranking.kind == CONFLICTS else f"the score {ranking.kind}, {below}"


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
    if ranking.stability is not None:
        yield _settled(ranking, ranking.stability)
    if all(layer.score == 0 for layer in ranking.layers):
        yield "no layer has any conflict at this severity, so the layers stand in the model's own order"


def _settled(ranking: Ranking, stability: Stability) -> str:
    k, needed, tiers = stability.k, stability.iterations_to_settle, {layer.tier for layer in ranking.layers}
    fall = "falls" if len(ranking.layers) == 1 else "fall"
    told = f"the {counted(len(ranking.layers), 'layer')} {fall} into {counted(len(tiers), 'tier')}"
    if k >= len(ranking.layers):
        return told
    if needed is None:
        return f"{told}; places {k} and {k + 1} have equal scores, which no number of iterations may part"
    if needed <= (ranking.iterations or 0):
        return f"{told}; the layers at places {k} and {k + 1} are told apart"
    return (
        f"{told}; to tell the layers at places {k} and {k + 1} apart would take some {needed:,} iterations "
        f"in place of {ranking.iterations:,}"
    )


def leaders_table(leaders: Sequence[Leader]) -> Table:
    """The layers that lead a profile so far."""
    title = f"cos < {number(leaders[0].severity)}" if leaders else "rate"
    table = make_table("leading layers", ">conflicts", f">{title}", "")
    for leader in leaders:
        add_row(table, [leader.name, leader.score, percent(leader.rate), bar(leader.rate)])
    return table
