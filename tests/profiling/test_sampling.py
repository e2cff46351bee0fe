"""Which steps are measured, against their definition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recon_cli.errors import ReconError
from recon_cli.profiling.sampling import Sampling

numbers = st.integers(1, 400)


def sampled(sampling: Sampling, steps: int) -> list[int]:
    return [step for step in range(steps) if sampling.includes(step)]


@given(steps=numbers, samples=numbers)
def test_samples_lie_evenly_over_the_run(steps, samples):
    expected = list(range(steps)) if steps <= samples else [i * steps // samples for i in range(samples)]
    found = sampled(Sampling(steps, samples=samples), steps)
    assert found == expected
    gaps = {later - earlier for earlier, later in zip(found, found[1:] + [steps], strict=True)}
    assert max(gaps) - min(gaps) <= 1


@given(steps=numbers, every=numbers)
def test_every_nth_step_is_every_nth_step(steps, every):
    assert sampled(Sampling(steps, every=every), steps) == list(range(0, steps, every))
    assert sampled(Sampling(None, every=every), steps) == list(range(0, steps, every))


@given(steps=numbers, number=numbers, spread=st.booleans(), some=st.integers(0, 500))
def test_counting_needs_no_walk(steps, number, spread, some):
    sampling = Sampling(steps, samples=number) if spread else Sampling(steps, every=number)
    assert sampling.count(some) == len(sampled(sampling, some))
    assert sampling.count(steps) == (min(number, steps) if spread else -(-steps // number))


def test_a_run_of_many_steps_is_sampled_exactly():
    sampling = Sampling(10**15 + 7, samples=1500)
    for i in (0, 1, 749, 1499):
        step = i * (10**15 + 7) // 1500
        assert sampling.includes(step)
        assert not sampling.includes(step + 1)


@given(steps=numbers, stages=st.integers(1, 10))
def test_stages_are_equal_parts_of_the_run(steps, stages):
    sampling = Sampling(steps, every=1)
    found = [sampling.stage(step, stages) for step in range(steps)]
    assert found == sorted(found)
    sizes = [found.count(stage) for stage in range(stages)]
    assert max(sizes) - min(sizes) <= 1
    assert sampling.stage(steps + 5, stages) == stages - 1
    assert Sampling(None, every=1).stage(5, stages) == 0


def test_what_is_not_given_is_chosen():
    assert Sampling.choose(None, None, None) == Sampling(None, every=10)
    assert Sampling.choose(20, None, None) == Sampling(20, samples=1500)
    assert Sampling.choose(20, 3, None) == Sampling(20, every=3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((10, 2, 5), "`every` and `samples` contradict each other"),
        ((10, None, None), "neither `every` nor `samples`"),
        ((None, None, 5), "`samples` needs `steps`"),
        ((10, 0, None), "`every` is 0, but has to be 1 or more"),
        ((10, None, -1), "`samples` is -1"),
        ((0, 1, None), "`steps` is 0"),
    ],
)
def test_what_cannot_be_sampled_is_refused(arguments, words):
    with pytest.raises(ReconError, match=words):
        Sampling(*arguments)
