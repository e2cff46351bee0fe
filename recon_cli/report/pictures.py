"""Single pictures of what a report shows, by matplotlib: the same findings give the same bytes."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from recon_cli.errors import ReconError, counted
from recon_cli.report.cosines import Counts
from recon_cli.report.costs import Costs
from recon_cli.report.findings import Findings
from recon_cli.report.layers import Layer
from recon_cli.report.words import percent, short, signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PictureFormat = Literal["svg", "png"]

_MOST_LAYERS = 60
"""A picture shows the first so many layers; the page shows all."""
_TITLE = 16
_STYLE: Any = {
    "svg.hashsalt": "recon",
    "font.family": "DejaVu Sans",
    "font.size": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    # Names are no formulas.
    "text.parse_math": False,
    "figure.dpi": 150,
}
_METADATA: Mapping[PictureFormat, Mapping[str, None]] = {
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
}
_CONFLICT, _AGREE, _ONE, _CHOSEN = "#b5451b", "#9aa7b4", "#0b5cad", "#00755a"
_BAR = "#e58a63"
_CURVES = (
    ("#0b5cad", "-"),
    ("#b5451b", "--"),
    ("#00755a", ":"),
    ("#8a3d84", "-."),
    ("#1b1d20", "-"),
    ("#5b6067", "--"),
)
"""As many as a picture can tell apart; it shows no more runs."""


def pictures_of(findings: Findings, form: PictureFormat) -> dict[str, bytes]:
    """The pictures, by the names of their files.

    :raises ReconError: if matplotlib is not installed, or there is nothing to draw.
    """
    if find_spec("matplotlib") is None:
        raise ReconError(
            "pictures are drawn by matplotlib, which is not installed",
            "pip install 'recon_cli[pictures]', or leave --format out for the page",
        )
    found = {}
    with _style():
        for name, draw in _PICTURES.items():
            figure = draw(findings)
            if figure is not None:
                data = io.BytesIO()
                figure.savefig(data, format=form, metadata=dict(_METADATA[form]), bbox_inches="tight")
                found[f"{name}.{form}"] = data.getvalue()
    if not found:
        raise ReconError(
            "there is nothing to draw in these documents", "name scores, a ranking or a comparison of conflicts"
        )
    return found


@contextmanager
def _style() -> Iterator[None]:
    """Matplotlib's own style with ours, whatever the user has set; and silence about characters that a font lacks."""
    from matplotlib import rc_context, rcdefaults, rcParams

    with rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rcdefaults()
        rcParams.update(_STYLE)
        yield


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.subplots()


def _ranking(findings: Findings) -> Figure | None:
    layers = [layer for layer in findings.layers if layer.rate is not None][:_MOST_LAYERS]
    if not layers:
        return None
    figure, axes = _figure(6, 0.9 + 0.16 * len(layers))
    rates = [100 * (layer.rate or 0) for layer in layers]
    ends = [(100 * (layer.low or 0), 100 * (layer.high or 0)) for layer in layers]
    # Rounding may part an interval from its rate.
    errors = [
        [max(0.0, rate - low) for rate, (low, _) in zip(rates, ends, strict=True)],
        [max(0.0, high - rate) for rate, (_, high) in zip(rates, ends, strict=True)],
    ]
    axes.barh(
        range(len(layers)), rates, color=_CONFLICT, height=0.7, xerr=errors, ecolor="#555555", error_kw={"lw": 0.7}
    )
    _name_rows(axes, layers)
    stage = "" if findings.stage is None else f" in stage {findings.stage}"
    axes.set_xlabel(f"% of the task pairs with a cosine below {signed(findings.severity)}{stage}, with 95% intervals")
    return figure


def _stages(findings: Findings) -> Figure | None:
    if findings.stages is None or not findings.layers:
        return None
    layers = sorted(findings.layers, key=lambda layer: layer.position or 0)[:_MOST_LAYERS]
    rows = [[*layer.stages, layer.whole] for layer in layers] + [[*findings.stages.trunk, findings.stages.whole]]
    most = 100 * max((rate for row in rows for rate in row if rate is not None), default=0) or 100.0
    figure, axes = _figure(2.5 + 0.75 * len(rows[0]), 0.9 + 0.17 * len(rows))
    axes.imshow(
        [[float("nan") if rate is None else 100 * rate for rate in row] for row in rows],
        cmap="Oranges", vmin=0, vmax=most, aspect="auto",
    )  # fmt: skip
    for down, row in enumerate(rows):
        for across, rate in enumerate(row):
            is_dark = rate is not None and 100 * rate > 0.65 * most
            text = "" if rate is None else f"{100 * rate:.1f}"
            axes.text(across, down, text, ha="center", va="center", fontsize=6, color="white" if is_dark else "black")
    names = [f"stage {place}" for place in range(1, len(rows[0]))]
    axes.set_xticks(range(len(rows[0])), [*names, "whole"])
    axes.set_yticks(range(len(rows)), [*(short(layer.name) for layer in layers), "all of them, as one"])
    axes.tick_params(length=0)
    axes.set_title(f"% of the task pairs with a cosine below {signed(findings.severity)}", loc="left", fontsize=8)
    return figure


def _cosines(findings: Findings) -> Figure | None:
    known = [each for each in findings.distributions if each.pairs]
    if not known:
        return None
    figure, axes = _figure(6, 2.6)
    for each, (colour, line) in zip(known, _CURVES, strict=False):
        edges, shares = _steps(each.trunk, findings.trunk_bins)
        axes.stairs(shares, edges, color=colour, linestyle=line, linewidth=1.2, label=short(each.name))
    axes.axvline(findings.severity, color=_CONFLICT, linestyle=(0, (3, 3)), linewidth=0.8)
    axes.set_xlabel("cosine of two tasks' gradients, of all shared layers as one vector")
    axes.set_ylabel(f"% of the pairs, in bins of {2 / findings.trunk_bins:g}")
    if len(known) > 1:
        axes.legend(frameon=False)
    return figure


def _layers(findings: Findings) -> Figure | None:
    from matplotlib.figure import Figure

    of = next((each for each in findings.distributions if any(each.layers)), None)
    if of is None:
        return None
    known = [
        (layer, counts) for layer, counts in zip(findings.layers, of.layers, strict=True) if counts and counts.counts
    ]
    known = known[:_MOST_LAYERS]
    if not known:
        return None
    columns = min(6, len(known))
    lines = -(-len(known) // columns)
    height = 0.85 * lines + 0.5
    figure = Figure(figsize=(1.6 * columns, height))
    inside = {"hspace": 0.75, "wspace": 0.3, "top": 1 - 0.5 / height}
    grid = figure.subplots(lines, columns, sharex=True, squeeze=False, gridspec_kw=inside)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, (layer, counts) in zip(grid.flat, known, strict=False):
        axes.set_axis_on()
        _bars(axes, counts, findings.layer_bins, findings.severity)
        rate = "" if layer.whole is None else f"  {percent(layer.whole)}"
        axes.set_title(f"{_ending(layer.name)}{rate}", fontsize=6)
        axes.set_yticks([])
        axes.tick_params(labelsize=6)
    figure.suptitle(
        f"cosines of two tasks' gradients; in colour below {signed(findings.severity)}", fontsize=8, y=1 - 0.1 / height
    )
    return figure


def _tasks(findings: Findings) -> Figure | None:
    matrix = findings.tasks.matrix if findings.tasks else None
    if matrix is None:
        return None
    size = len(matrix.tasks)
    figure, axes = _figure(1.6 + 0.45 * size, 1 + 0.32 * size)
    axes.imshow(
        [[float("nan") if rate is None else 100 * rate for rate in row] for row in matrix.rates],
        cmap="Oranges", vmin=0, vmax=100, aspect="auto",
    )  # fmt: skip
    for down, row in enumerate(matrix.rates):
        for across, rate in enumerate(row):
            axes.text(across, down, "" if rate is None else f"{100 * rate:.0f}", ha="center", va="center", fontsize=6)
    names = [short(name) for name in matrix.tasks]
    axes.set_xticks(range(size), names, rotation=90)
    axes.set_yticks(range(size), names)
    axes.tick_params(length=0)
    axes.set_title(f"% of the steps with a cosine below {signed(findings.severity)}", loc="left", fontsize=8)
    return figure


def _course(findings: Findings) -> Figure | None:
    from matplotlib.figure import Figure

    courses = findings.courses
    if courses is None:
        return None
    columns = min(3, len(courses.lines))
    rows = -(-len(courses.lines) // columns)
    figure = Figure(figsize=(2.8 * columns, 2.1 * rows + 0.4))
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False, gridspec_kw={"hspace": 0.5, "wspace": 0.35})
    for axes in grid.flat[len(courses.lines) :]:
        axes.set_axis_off()
    for axes, line in zip(grid.flat, courses.lines, strict=False):
        for values, colour, width in ((line.values, _AGREE, 0.6), (line.smoothed, _ONE, 1.4)):
            known = [float("nan") if value is None else value for value in values]
            axes.plot(courses.ends, known, color=colour, linewidth=width)
        name = line.measure if line.feature is None else f"{line.measure} {short(line.feature)}"
        axes.set_title(name if line.last is None else f"{name}, at the end {_signed_decimal(line.last)}", fontsize=8)
        axes.set_xlabel("measured steps")
    figure.suptitle(
        f"the mean over a tenth of the profile; at the end, over the last {counted(courses.last_iterations, 'step')}",
        fontsize=8,
        y=1.02,
    )
    return figure


def _costs(findings: Findings) -> Figure | None:
    from matplotlib.figure import Figure

    costs, k = findings.costs, findings.chosen
    if costs is None or k is None:
        return None
    has_operations = costs.steps[0].operations is not None
    figure = Figure(figsize=(8 if has_operations else 4, 2.8))
    first, *others = figure.subplots(1, 2 if has_operations else 1, squeeze=False, gridspec_kw={"wspace": 0.3})[0]
    added = _added(costs)
    covered = [100 * step.covered for step in costs.steps]
    first.plot(added, covered, color=_ONE, marker=".", markersize=3, linewidth=1.2)
    first.plot([added[k - 1]], [covered[k - 1]], "o", color=_CONFLICT, fillstyle="none")
    for split in findings.splits:
        if split.covered is not None:
            more = 100 * (split.after - split.before) / max(costs.shared_parameters, 1)
            first.plot([more], [100 * split.covered], "x", color=_CHOSEN, markersize=5)
    if all(share > 0 for share in added):
        first.set_xscale("log")
        first.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    first.set_ylim(0, 104)
    first.set_xlabel("parameters added, % of the shared ones")
    first.set_ylabel("% of the conflicts covered")
    for axes in others:
        operations = [1.0, *(step.operations or 1.0 for step in costs.steps)]
        axes.step(range(len(operations)), operations, where="post", color=_ONE, linewidth=1.2)
        axes.plot([k], [operations[k]], "o", color=_CONFLICT, fillstyle="none")
        axes.set_xlabel("K layers split")
        axes.set_ylabel("times the operations")
    figure.suptitle(f"splitting the first K layers of the ranking; the circle is K = {k}", fontsize=8)
    return figure


def _changes(findings: Findings) -> Figure | None:
    if findings.changes is None:
        return None
    figure, axes = _figure(6, 2.6)
    runs, intervals = findings.changes.runs[: len(_CURVES)], findings.changes.intervals
    width = 0.8 / len(runs)
    for place, (run, (colour, _)) in enumerate(zip(runs, _CURVES, strict=False)):
        places = [interval + place * width for interval in range(len(intervals))]
        bars = axes.bar(places, [100 * share for share in run.masses], width, color=colour, label=short(run.name))
        axes.bar_label(bars, fmt="%.0f", fontsize=5.5)
    axes.set_xticks([interval + 0.4 - width / 2 for interval in range(len(intervals))], intervals)
    axes.set_xlabel(f"cosines of {short(findings.changes.of)}")
    axes.set_ylabel("% of the pairs")
    axes.legend(frameon=False)
    return figure


_PICTURES: Mapping[str, Callable[[Findings], Figure | None]] = {
    "ranking": _ranking,
    "stages": _stages,
    "cosines": _cosines,
    "layers": _layers,
    "tasks": _tasks,
    "course": _course,
    "costs": _costs,
    "changes": _changes,
}


def _signed_decimal(value: float) -> str:
    # Adding 0 turns a rounded -0.0 into 0.0.
    return f"{round(value, 3) + 0.0:.3f}".replace("-", "\u2212")


def _ending(name: str) -> str:
    """The end of a name, where layers differ most."""
    return name if len(name) <= _TITLE else f"\u2026{name[-_TITLE:]}"


def _name_rows(axes: Axes, layers: Sequence[Layer]) -> None:
    axes.set_yticks(range(len(layers)), [short(layer.name) for layer in layers])
    axes.set_ylim(len(layers) - 0.4, -0.6)


def _added(costs: Costs) -> list[float]:
    return [100 * step.added_parameters / max(costs.shared_parameters, 1) for step in costs.steps]


def _steps(counts: Counts, bins: int) -> tuple[list[float], list[float]]:
    """The edges of bins, and the percentage of all cosines in each."""
    total = sum(counts.counts) or 1
    edges = [-1 + 2 * (counts.first + place) / bins for place in range(len(counts.counts) + 1)]
    return edges, [100 * number / total for number in counts.counts]


def _bars(axes: Axes, counts: Counts, bins: int, severity: float) -> None:
    """A histogram in two colours, which part at the severity, inside a bin if it lies there."""
    edges, shares = _steps(counts, bins)
    below = [min(edge, severity) for edge in edges]
    above = [max(edge, severity) for edge in edges]
    axes.stairs(shares, below, fill=True, color=_CONFLICT)
    axes.stairs(shares, above, fill=True, color=_AGREE)
