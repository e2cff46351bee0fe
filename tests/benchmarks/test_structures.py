"""What counts as right in the comparison of ways of choosing."""

from __future__ import annotations

import torch

from benchmarks.pages import page_with
from benchmarks.structures import CAMPS, PAGE, Outcome, batches, chosen

SHARED, PARTED, EACH = [("a", "b", "c", "d")], [("a", "c"), ("b", "d")], [("a",), ("b",), ("c",), ("d",)]


def test_a_choice_is_right_if_no_camps_share_a_module_on_which_they_conflict():
    assert chosen([SHARED, PARTED, SHARED], (1,)) == Outcome(right=True, copies=4)
    assert chosen([SHARED, EACH, PARTED], (1,)) == Outcome(right=True, copies=7)
    assert chosen([SHARED, PARTED, SHARED], (1, 2)) == Outcome(right=False, copies=4)
    assert chosen([[("a", "b"), ("c", "d")], SHARED, SHARED], (0,)).right is False


def test_camps_want_the_opposite_of_the_modules_on_which_they_conflict_alone():
    x = torch.cat([batch[0] for batch in batches((1,), 0)])
    labels = {task: torch.cat([batch[1][task] for batch in batches((1,), 0)]) for task in "abcd"}
    changes = {task: torch.linalg.lstsq(x, wanted - x).solution for task, wanted in labels.items()}
    for one, other in (("a", "c"), ("a", "b")):
        for place in range(3):
            part = slice(4 * place, 4 * place + 4)
            cosine = torch.cosine_similarity(
                changes[one][part, part].flatten(), changes[other][part, part].flatten(), 0
            )
            apart = place == 1 and not any({one, other} <= camp for camp in CAMPS)
            assert (cosine < -0.9) if apart else (cosine > 0.9)


def test_the_page_has_a_place_for_it():
    assert page_with(PAGE.read_text(), "structures", "a table\n") != PAGE.read_text()
