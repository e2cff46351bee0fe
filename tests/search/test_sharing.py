"""The expected sharing of a branching that is drawn, against all branchings that can be drawn, one by one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon_cli.search.sharing import (
    copies_by_parent,
    copies_by_task,
    together_by_parent,
    together_by_task,
    ways_by_parent,
    ways_by_task,
)

Draw = tuple[tuple[int, ...], ...]
"""For each module the copy that each row of its table drew."""


def ways_of_tasks(draw: Draw, tasks: int) -> list[tuple[int, ...]]:
    return [tuple(of_module[task] for of_module in draw) for task in range(tasks)]


def ways_of_parents(draw: Draw, tasks: int) -> list[tuple[int, ...]]:
    found = []
    for task in range(tasks):
        at, way = task, ()
        for of_module in draw[::-1]:
            at = of_module[at]
            way = (at, *way)
        found.append(way)
    return found


def expected(
    tables: Sequence[torch.Tensor], tasks: int, ways_of: Callable[[Draw, int], list[tuple[int, ...]]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The expected numbers of copies, and the probabilities that two tasks share, from all draws."""
    copies = torch.zeros(len(tables), dtype=torch.float64)
    together = torch.zeros(len(tables), tasks, tasks, dtype=torch.float64)
    rows = [[row.tolist() for row in table] for table in tables]
    for draw in itertools.product(*(itertools.product(range(len(of[0])), repeat=len(of)) for of in rows)):
        probability = math.prod(
            row[copy] for of, drawn in zip(rows, draw, strict=True) for row, copy in zip(of, drawn, strict=True)
        )
        ways = ways_of(draw, tasks)
        for place in range(len(tables)):
            beginnings = [way[: place + 1] for way in ways]
            copies[place] += probability * len(set(beginnings))
            for one, other in itertools.product(range(tasks), repeat=2):
                together[place, one, other] += probability * (beginnings[one] == beginnings[other])
    return copies, together


@st.composite
def table_lists(draw: st.DrawFn, sizes: Sequence[tuple[int, int]]) -> list[torch.Tensor]:
    """Softmaxed tables; some probabilities are zero or one."""
    seed = draw(st.integers(0, 2**32))
    spread = draw(st.sampled_from([0.0, 1.0, 1000.0]))
    generator = torch.Generator().manual_seed(seed)
    return [(spread * torch.randn(size, generator=generator, dtype=torch.float64)).softmax(1) for size in sizes]


# Modules of few tasks and copies: each has as many draws as their product as an exponent says.
BY_TASK = [[(3, 3), (3, 3)], [(4, 2), (4, 2)], [(2, 3), (2, 3), (2, 3)], [(3, 2)]]
BY_PARENT = [[(3, 3), (3, 3)], [(2, 2), (2, 2), (4, 2)], [(2, 2), (2, 2), (2, 2)], [(3, 2), (2, 3)], [(4, 3)]]


@pytest.mark.parametrize("sizes", BY_TASK, ids=str)
@settings(max_examples=5)
@given(data=st.data())
def test_every_task_draws(sizes, data):
    tables = data.draw(table_lists(sizes))
    copies, together = expected(tables, sizes[-1][0], ways_of_tasks)
    torch.testing.assert_close(copies_by_task(tables), copies)
    torch.testing.assert_close(together_by_task(tables), together)


@pytest.mark.parametrize("sizes", BY_PARENT, ids=str)
@settings(max_examples=5)
@given(data=st.data())
def test_every_reader_draws(sizes, data):
    tables = data.draw(table_lists(sizes))
    copies, together = expected(tables, sizes[-1][0], ways_of_parents)
    torch.testing.assert_close(copies_by_parent(tables), copies)
    torch.testing.assert_close(together_by_parent(tables), together)


@pytest.mark.parametrize("of", [copies_by_task, copies_by_parent])
def test_its_gradient_is_that_of_the_numbers(of):
    logits = torch.randn(2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: of([*x.softmax(-1)]), logits)


@pytest.mark.parametrize(("of", "tasks"), [(copies_by_task, 16), (copies_by_parent, 10)])
def test_it_stays_exact_for_as_many_tasks_as_are_allowed(of, tasks):
    even = torch.full((2, tasks, tasks), 1 / tasks, dtype=torch.float64)
    # Of n copies that n tasks draw evenly, each is missed with the probability (1 - 1/n)^n.
    drawn = tasks * (1 - (1 - 1 / tasks) ** tasks)
    last = of([*even])[0 if of is copies_by_task else -1]
    assert float(last) == pytest.approx(drawn, rel=1e-9)


def test_the_most_probable_ways():
    tables = [torch.eye(3)[list(of_module)] for of_module in ((0, 0, 1), (0, 2, 1))]
    assert ways_by_task(tables) == [(0, 0), (0, 2), (1, 1)]
    # The tasks' copies of the last module are 0, 2 and 1, and those read 0, 1 and 0.
    assert ways_by_parent(tables) == [(0, 0), (1, 2), (0, 1)]
