"""Heat strips and bars: what they show can be read back."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console, RenderableType

from recon_cli.artifacts.ranking import RankedLayer, Ranking, RankingSource
from recon_cli.reporting.heat import BarredTable, HeatStrip, relative
from recon_cli.reporting.ranking import ranking_view
from recon_cli.reporting.tables import Rows

LINE = re.compile(r"^ *(\d+) \|([^|]*)\| (\d+)$")
SHADES = " .:-=+*#%@"


def drawn(*items: RenderableType, width: int = 80) -> list[str]:
    """The lines of what a log of so many columns holds."""
    stream = io.StringIO()
    console = Console(file=stream, width=width, markup=False, highlight=False, emoji=False)
    for item in items:
        console.print(item)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def strip_in(lines: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """All marks of a strip in a row, and the first and the last place of each of its lines."""
    found = [match for line in lines if (match := LINE.match(line))]
    return "".join(match[2] for match in found), [(int(match[1]), int(match[3])) for match in found]


def ranking_of(scores: dict[str, float], *, positions: bool = True, pairs: int | None = None) -> Ranking:
    """A ranking of layers that are named in the network's order.

    :param pairs: how many were measured of every layer, if the ranking is to say all that it can.
    """
    places = {name: place for place, name in enumerate(scores, start=1)}
    layers = tuple(
        RankedLayer(
            name=name, score=score, position=places[name] if positions else None, pairs=pairs, size=10_000_000,
            rate=None if pairs is None else score / pairs, interval=None if pairs is None else (0.123, 0.456),
        )
        for name, score in sorted(scores.items(), key=lambda item: -item[1])
    )  # fmt: skip
    source = RankingSource(scores_digest=None, config_digest=None, checkpoint_digest=None, complete=None)
    return Ranking(
        tasks=None, severity=None, stage=None, iterations=None, layers=layers, unranked=None, source=source
    )  # fmt: skip


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=300), st.integers(30, 140))
def test_every_layer_has_its_mark_in_its_place(scores, width):
    names = [f"layers.{number}" for number in range(len(scores))]
    lines = drawn(HeatStrip("score", names, relative(scores), str(max(scores))), width=width)
    marks, places = strip_in(lines)
    assert max(map(len, lines)) <= width
    assert [place for first, last in places for place in range(first, last + 1)] == list(range(1, len(scores) + 1))
    for score, mark in zip(scores, marks, strict=True):
        ninths = 9 * Fraction(score, max(scores) or 1)
        # Of a share that is a whole number of ninths, rounding may make the next one.
        assert ninths <= SHADES.index(mark) < ninths + 1 + Fraction(1, 10**9)
        assert (mark == " ") == (score == 0)


def test_each_line_says_which_layers_it_begins_and_ends_with():
    names = [f"block{number}.conv" for number in range(130)]
    lines = drawn(HeatStrip("score", names, [1.0] * 130, "7"))
    assert lines[1] == "blank is 0 or below, then .:-=+*#%@ in equal steps up to 7"
    for place, (first, last) in zip((2, 4, 6), ((1, 60), (61, 120), (121, 130)), strict=True):
        assert lines[place] == f"{first:>3} |{'@' * (last - first + 1)}| {last}"
        below = lines[place + 1]
        assert below.split()[0] == names[first - 1]
        assert below.split()[-1] == names[last - 1]
        assert below.index("block") == lines[place].index("@")
    assert len(lines[3]) == len(lines[2]) - len("| 60"), "the last name ends below its mark"


@pytest.mark.parametrize("count", [1, 41, 500])
def test_a_ranking_of_any_length_fits_80_columns(count):
    scores = {f"encoder.layers.{number}.attention.query": float(number % 7) for number in range(count)}
    lines = drawn(*ranking_view(ranking_of({"stem": 7.0, **scores}, pairs=10)))
    marks, _ = strip_in(lines)
    assert max(map(len, lines)) <= 80
    assert (len(marks), marks[0]) == (count + 1, "@")
    first = lines[next(place for place, line in enumerate(lines) if line.startswith("─")) + 1]
    assert re.split(r"  +", first.strip()) == ["1", "stem", "7", "70.00%", "12.3 to 45.6%", "10,000,000", "####"]


def test_the_order_is_the_networks_and_not_the_rankings():
    marks, _ = strip_in(drawn(*ranking_view(ranking_of({"a": 1.0, "b": 9.0, "c": 0.0, "d": 5.0}))))
    assert marks == ".@ +"


def test_no_strip_is_shown_where_nothing_is_known_or_nothing_conflicts():
    for ranking in (ranking_of({"a": 2.0, "b": 1.0}, positions=False), ranking_of({"a": 0.0, "b": 0.0})):
        assert strip_in(drawn(*ranking_view(ranking))) == ("", [])


def test_counts_are_shown_in_full_and_other_scores_as_far_as_there_is_room():
    lines = drawn(*ranking_view(ranking_of({"a": 1234567.0, "b": 0.30231814215645114, "c": -0.5})))
    assert "blank is 0 or below, then .:-=+*#%@ in equal steps up to 1234567" in lines
    assert [line.split()[2] for line in lines[-3:]] == ["1234567", "0.302318", "-0.5"]


def test_scores_below_zero_have_neither_marks_nor_bars():
    lines = drawn(*ranking_view(ranking_of({"a": 2.0, "b": -3.0})))
    assert strip_in(lines)[0] == "@ "
    assert lines[-2].endswith("#" * 20)
    assert lines[-1].endswith(" " + "." * 20)
    assert relative([-1.0, -2.0]) == [0.0, 0.0]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_bars_are_as_long_as_their_shares_and_take_the_room_that_is_left(width):
    shares = [1.0, 0.75, 0.5, 0.0]
    rows = [[place, "name" * 9, 0.5] for place in range(4)]
    lines = drawn(BarredTable(Rows([">#", "layer", ">score"], rows), shares), width=width)
    bars = [line.split()[-1] for line in lines[2:]]
    assert max(map(len, lines)) <= width
    assert len(bars[0]) == {60: 60 - len("#  " + "name" * 9 + "  score  "), 80: 20, 120: 20}[width]
    assert [bar.count("#") for bar in bars] == [round(share * len(bars[0])) for share in shares]


def test_hostile_and_long_names_stay_harmless():
    names = ["a\x1b[31m\x07red", "x" * 300, "\u202eright", "层" * 40, "[bold]b[/bold]", "new\nline"]
    lines = drawn(*ranking_view(ranking_of({name: float(place) for place, name in enumerate(names)})))
    assert max(map(cell_len, lines)) <= 80
    text = "\n".join(lines)
    assert all(character == "\n" or character.isprintable() for character in text)
    assert "[bold]b[/bold]" in text
    assert strip_in(lines)[0] == " :=*%@"
