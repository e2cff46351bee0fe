"""Times all ways to do a step of one case, counts their operations and checks their cosines.

`python -m benchmarks.profile.timing CASE DEVICE [ROUNDS]` writes one JSON document; `python -m benchmarks.profile`
starts it.
"""

from __future__ import annotations

import gc
import json
import random
import statistics
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.profile.bench import Bench
from benchmarks.profile.cases import CASES, Case
from benchmarks.profile.ways import JOINT, OURS, Joint, Sequential, Unsampled, Way, installed

_PAIR_SECONDS = 30.0
_PAIRS = (20, 500)


@dataclass(frozen=True)
class Ratio:
    """The median of paired ratios.

    :ivar error: its standard error.
    :ivar pairs: the number of pairs; each is two steps of either way.
    """

    median: float
    error: float
    pairs: int


@dataclass(frozen=True)
class Timing:
    """What the process finds.

    :ivar seconds: way -> its time in every round.
    :ivar unsampled: a step that is not sampled, in joint steps.
    :ivar operations: floating-point operations of our step, in those of the joint step.
    :ivar differences: way -> the largest difference of a cosine from float64.
    """

    seconds: dict[str, list[float]]
    unsampled: Ratio
    operations: float
    differences: dict[str, float]


def measure(case: Case, device: str, rounds: int | None) -> Timing:
    """Do everything for one case."""
    bench = Bench(case, device)
    ways = {name: way(bench) for name, way in installed().items()}
    seconds, found = race(ways, rounds or (3 if case.is_long else 7), bench.device)
    return Timing(
        seconds=seconds,
        unsampled=compare(Joint(bench), Unsampled(bench), bench.device),
        operations=operations(ways[OURS]) / operations(ways[JOINT]),
        differences=differences(bench, found),
    )


def race(
    ways: dict[str, Way], rounds: int, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, torch.Tensor]]:
    """Let all ways take turns, in an order that is shuffled in every round after the first, which warms up.

    :returns: way -> its seconds in every round, and way -> its cosines, where it has them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, torch.Tensor] = {}
    order, shuffle = list(ways), random.Random(0).shuffle
    for name in order:
        result = ways[name]()
        if result is not None:
            found[name] = result.cpu()
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            # What one way leaves behind is not for the next one to collect.
            gc.collect()
            seconds[name].append(timed(ways[name], device))
    return seconds, found


def compare(plain: Way, other: Way, device: torch.device) -> Ratio:
    """The time of one way relative to a nearly equal one.

    A pair is two steps of either way, plain-other-other-plain and the reverse in turns, so that neither is always the
    second, and slow drifts cancel.
    """
    ratios: list[float] = []
    end = time.perf_counter() + _PAIR_SECONDS
    gc.collect()
    gc.disable()
    while len(ratios) < _PAIRS[0] or (len(ratios) < _PAIRS[1] and time.perf_counter() < end):
        one, two = (plain, other) if len(ratios) % 2 == 0 else (other, plain)
        first, second, third, fourth = (timed(way, device) for way in (one, two, two, one))
        ratio = (second + third) / (first + fourth)
        ratios.append(ratio if one is plain else 1 / ratio)
    gc.enable()
    return Ratio(statistics.median(ratios), error_of_median(ratios), len(ratios))


def error_of_median(values: Sequence[float]) -> float:
    """The standard error of a median, from 2,000 bootstrap samples."""
    drawn = random.Random(0)
    return statistics.stdev(statistics.median(drawn.choices(values, k=len(values))) for _ in range(2000))


def timed(way: Way, device: torch.device) -> float:
    """The seconds of one step."""
    synchronize(device)
    start = time.perf_counter()
    way()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait for a device that works asynchronously."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def operations(way: Way) -> int:
    """The floating-point operations of one step, as PyTorch counts them: matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        way()
    return int(counter.get_total_flops())


def differences(bench: Bench, found: dict[str, torch.Tensor]) -> dict[str, float]:
    """The largest difference of each way's cosines from those of the sequential way in float64."""
    exact = Sequential(bench.clone(torch.float64))().cpu()
    return {name: float((own - exact).abs().max()) for name, own in found.items()}


def main(name: str, device: str, rounds: str | None = None) -> None:
    """Write the findings for one case to standard output."""
    warnings.filterwarnings("ignore")
    print(json.dumps(asdict(measure(CASES[name], device, int(rounds) if rounds else None))))


if __name__ == "__main__":
    main(*sys.argv[1:])
