"""The targets take their seeds, and mutations of them that are the same in every run."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.targets import TARGETS, run, seeds

SEEDS = seeds()


def test_every_target_has_seeds():
    assert set(SEEDS) == set(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_accepted_and_mutations_end_in_nothing_but_our_own_error(name):
    draw = random.Random(0)
    for seed in SEEDS[name]:
        TARGETS[name](seed)
        for _ in range(100):
            data = bytearray(seed)
            for _ in range(draw.randint(1, 4)):
                at = draw.randrange(len(data))
                if draw.random() < 0.3:
                    del data[at : at + draw.randint(1, 8)]
                else:
                    data[at] = draw.randrange(256)
                data = data or bytearray(b"x")
            run(TARGETS[name], bytes(data))
