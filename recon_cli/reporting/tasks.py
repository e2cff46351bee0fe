"""How tasks get along, for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

from rich.console import RenderableType

from recon_cli.artifacts.tasks import Course, Grouping, TaskRelations
from recon_cli.errors import counted, number
from recon_cli.reporting.tables import Rows, add_row, decimal, make_table, percent, table_of

_MOST_IN_MATRIX = 9
"""So many columns fit a terminal of 80."""
_WORST = 20
_LINE = 24
_DIGITS = 3
_LEVELS = ".:-=+*#%@"


def tasks_view(found: TaskRelations) -> Iterable[RenderableType]:
    """Which tasks conflict, which get along, and how alike their gradients were over time; tasks are numbered."""
    of = "all shared layers as one vector" if found.layer is None else found.layer
    yield f"how often the gradients of two tasks have a cosine below {number(found.severity)},"
    yield f"on {of},"
    yield f"in percent of the steps in which both were measured, of {found.iterations}"
    yield ""
    if len(found.tasks) <= _MOST_IN_MATRIX:
        yield table_of(tasks_rows(found), dense=True)
    else:
        yield from _worst_pairs(found)
    if found.grouping is not None:
        yield ""
        yield from _groups(found.grouping)
    if found.courses:
        yield ""
        yield from _courses(found)


def tasks_rows(found: TaskRelations) -> Rows:
    """How often each two tasks conflict, in percent; tasks are numbered."""
    rows = []
    for place, (task, rates) in enumerate(zip(found.tasks, found.rates, strict=True)):
        cells = ("-" if place == at else _rate(rate) for at, rate in enumerate(rates))
        rows.append([place + 1, task, *cells])
    return Rows([">", "task", *(f">{place}" for place in range(1, len(found.tasks) + 1))], rows)


def tasks_remarks(found: TaskRelations) -> Iterable[str]:
    """What is worth saying about the tasks besides."""
    if not found.complete:
        yield f"the profile ended early, after {counted(found.iterations, 'measured iteration')}"
    if len(found.tasks) == 2:
        yield "there are two tasks only, so there is nothing to group"
    elif found.grouping is None:
        yield "fewer than three tasks were measured with each other, so there is nothing to group"
    elif not found.grouping.beyond_chance:
        yield "the tasks differ in how often they conflict by no more than chance explains, so the groups mean little"
    if not found.courses:
        yield "the scores hold nothing over time: an earlier version of Recon wrote them"


def _worst_pairs(found: TaskRelations) -> Iterable[RenderableType]:
    known = [
        (rate, one, other)
        for one, other in combinations(range(len(found.tasks)), 2)
        if (rate := found.rates[one][other]) is not None
    ]
    worst = sorted(known, key=lambda each: -each[0])[:_WORST]
    yield f"the {len(worst)} of {counted(len(known), 'pair')} that conflict most; --json holds all"
    table = make_table("task", "task", ">%", ">mean cosine")
    for rate, one, other in worst:
        add_row(table, [found.tasks[one], found.tasks[other], _rate(rate), decimal(found.cosines[one][other], _DIGITS)])
    yield table


def _groups(grouping: Grouping) -> Iterable[RenderableType]:
    yield "suggested groups: no two tasks of one conflict more often than two tasks do"
    yield f"on average, {percent(grouping.mean_rate)}"
    yield ""
    table = make_table(">", "tasks", ">at most")
    for place, group in enumerate(grouping.groups, start=1):
        highest = "" if group.highest_rate is None else percent(group.highest_rate)
        add_row(table, [place, ", ".join(group.tasks), highest])
    yield table
    if grouping.within_rate is not None and grouping.across_rate is not None:
        yield ""
        yield f"two tasks of one group conflict in {percent(grouping.within_rate)} of the steps on average,"
        yield f"two of different groups in {percent(grouping.across_rate)}"


def _courses(found: TaskRelations) -> Iterable[RenderableType]:
    yield "over time, in the mean over a tenth of the profile;"
    yield f"at the end, over the last {counted(found.last_iterations, 'measured step')}"
    yield ""
    table = make_table("", ">lowest", ">highest", f">lowest {_LEVELS} highest", ">at the end")
    for course in found.courses:
        known = [value for value in course.smoothed if value is not None]
        ends = (min(known), max(known)) if known else (None, None)
        name = course.measure if course.feature is None else f"{course.measure} {course.feature}"
        add_row(table, [name, *(decimal(end, _DIGITS) for end in ends), _line(course), decimal(course.last, _DIGITS)])
    yield table


def _line(course: Course) -> str:
    """The smoothed values as a line of characters, from the lightest for the lowest to the darkest for the highest."""
    shown = _spread(course.smoothed, _LINE)
    known = [value for value in course.smoothed if value is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    steps = (len(_LEVELS) - 1) / (high - low) if high > low else 0.0
    return "".join(" " if value is None else _LEVELS[round((value - low) * steps)] for value in shown)


def _spread(values: Sequence[float | None], most: int) -> Sequence[float | None]:
    """At most so many of the values, evenly spread, with the last of them."""
    number = min(most, len(values))
    return [values[(place + 1) * len(values) // number - 1] for place in range(number)]


def _rate(rate: float | None) -> str:
    return "" if rate is None else f"{100 * rate:.1f}"
