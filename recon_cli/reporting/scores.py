"""The outcome of a profile for people."""

from __future__ import annotations

from collections.abc import Iterable
from math import log
from pathlib import Path

from rich.console import RenderableType

from recon_cli.artifacts.method import JOINT, describe
from recon_cli.artifacts.scores import Scores
from recon_cli.errors import counted, number
from recon_cli.ranking.rank import DEFAULT_SEVERITY
from recon_cli.reporting.heat import HeatStrip, relative
from recon_cli.reporting.tables import Rows, decimal, percent, table_of

_SHOWN_SEVERITIES = 4


def scores_view(scores: Scores, output: Path) -> Iterable[RenderableType]:
    """How often the tasks conflict on each layer, in the network's order, and how alike their gradients are."""
    measured = counted(scores.iterations, "iteration")
    if scores.iterations < scores.steps:
        measured = f"{scores.iterations} of {counted(scores.steps, 'training step')}"
    if scores.method != JOINT:
        yield f"trained by {describe(scores.method)}"
    yield (
        f"{counted(len(scores.layers), 'layer')} shared by {', '.join(scores.tasks)}; "
        f"{measured} measured on {scores.device}"
    )
    if scores.settled is not None:
        yield (
            f"it stopped before step {scores.steps_requested}, as the first {counted(scores.settled.k, 'layer')} below "
            f"cosine {number(scores.settled.severity)} had settled"
        )
    if scores.batch_restarts:
        yield f"the data was started over {counted(scores.batch_restarts, 'time')}"
    yield ""
    yield table_of(scores_rows(scores))
    for feature in scores.features:
        yield (
            f"at {feature.name}: FD {decimal(scores.fd(feature), 3) or 'not measured'} "
            f"(0 to {log(len(feature.tasks) or 1):.3f}), "
            f"GDS {decimal(scores.gds(feature), 3)}, GMS {decimal(scores.gms(feature), 2)}"
        )
    yield ""
    strip = heat_of_scores(scores)
    if strip is not None:
        yield strip
        yield ""
    yield f"next: recon rank {output} -S {number(DEFAULT_SEVERITY)} -o ranking.json"


def scores_rows(scores: Scores) -> Rows:
    """The layers in the network's order, and all of them as one: rates at some severities, and similarities."""
    step = max(1, -(-len(scores.severities) // _SHOWN_SEVERITIES))
    shown = scores.severities[::step]
    rows = []
    for layer in (*scores.layers, None):
        pairs = scores.pairs(layer) or 1
        rates = [percent(scores.conflicts(layer, severity) / pairs) for severity in shown]
        name = "all of them, as one" if layer is None else layer.name
        rows.append([name, *rates, decimal(scores.gds(layer), 3), decimal(scores.gms(layer), 2)])
    return Rows(["layer", *(f">cos < {number(severity)}" for severity in shown), ">GDS", ">GMS"], rows)


def heat_of_scores(scores: Scores) -> HeatStrip | None:
    """The rates of conflicts along the network, at the severity that is ranked by unasked; None without conflicts."""
    rates = [scores.conflicts(layer, DEFAULT_SEVERITY) / (scores.pairs(layer) or 1) for layer in scores.layers]
    if not any(rates):
        return None
    title = f"rate of cosines below {number(DEFAULT_SEVERITY)}"
    return HeatStrip(title, [layer.name for layer in scores.layers], relative(rates), percent(max(rates)))
