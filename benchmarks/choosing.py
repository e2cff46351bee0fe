"""What forty tasks cost: the published choice and those of `recon split`, on ResNet-18 in the shape of CelebA.

    python -m benchmarks.choosing            # show the table
    python -m benchmarks.choosing --write    # and put it into docs/choosing.md

The network and its data flow are real (`recon_cli.zoo:celeba_resnet18`, images of 64x64 pixels). No profile of 40 tasks
is at hand, so the conflicts are made: a layer conflicts as often as in the ranking that the authors published for
ResNet-18, between tasks of different camps; four times less often within a camp, of which there are four; binomial, of
300 iterations.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

import recon_cli
from benchmarks.pages import page_with, table
from recon_cli.artifacts.ranking import RankedLayer, Ranking, RankingSource
from recon_cli.grouping.best import best_groups
from recon_cli.grouping.partitions import Partition, all_apart, all_together, groups_of
from recon_cli.layers.names import LayerTable
from recon_cli.ranking.pairwise import added_up
from recon_cli.tradeoff.family import family_of
from recon_cli.tradeoff.items import item_of
from recon_cli.tradeoff.problem import Limits, Problem, Solution
from recon_cli.tradeoff.solve import Solver
from recon_cli.zoo import celeba_resnet18
from recon_cli.zoo.resnet import CELEBA_ATTRIBUTES

PAGE = Path(__file__).parents[1] / "docs" / "choosing.md"
AUTHORS = Path(__file__).parents[1] / "tests" / "data" / "recon_authors_resnet18_S-0.1.json"
CAMPS = 4
WITHIN = 0.25
ITERATIONS = 300
K = 25


def forty_tasks() -> tuple[Ranking, int]:
    """A ranking of the network, and how many parameters it has with its heads."""
    generator = np.random.default_rng(0)
    model = celeba_resnet18()
    tasks = tuple(CELEBA_ATTRIBUTES)
    flow = recon_cli.dataflow_of(model, tasks, torch.zeros(2, 3, 64, 64))
    camp = generator.integers(CAMPS, size=len(tasks))
    pairs = list(combinations(range(len(tasks)), 2))
    scores = json.loads(AUTHORS.read_text())
    rates = {name: score / (1.1 * max(scores.values())) for name, score in scores.items()}
    own = dict(model.named_parameters())
    layers = []
    for name, keys in LayerTable.of(own).keys.items():
        if name not in rates:
            continue
        factor = np.array([1.0 if camp[one] != camp[other] else WITHIN for one, other in pairs])
        between = generator.binomial(ITERATIONS, rates[name] * factor).astype(float)
        size = sum(own[key].numel() for key in keys)
        layers.append(RankedLayer(name=name, score=between.sum(), between=tuple(between), size=size, tasks=tasks))
    layers.sort(key=lambda layer: -layer.score)
    source = RankingSource(scores_digest=None, config_digest=None, checkpoint_digest=None, complete=None)
    ranking = Ranking(
        tasks=tasks, severity=-0.1, stage=None, iterations=ITERATIONS, layers=tuple(layers), unranked=None,
        source=source, flow=flow,
    )  # fmt: skip
    return ranking, sum(each.numel() for each in own.values())


def choices(ranking: Ranking, parameters: int) -> Iterator[tuple[str, Solution, float]]:
    """What each choice is called, what it splits, and how many seconds it took to find."""
    tasks = ranking.tasks or ()
    problem = Problem(len(tasks), [item_of([layer], tasks, layer.size or 0) for layer in ranking.layers], ranking.flow)

    def first(partition: Partition) -> Solution:
        rest = [all_together(len(tasks))] * (len(problem.items) - K)
        return problem.solution([*[partition] * K, *rest])

    yield f"--top-k {K}, as published", first(all_apart(len(tasks))), 0.0
    for groups in (8, 4, 2):
        began = perf_counter()
        total = added_up([item.conflicts for item in problem.items[:K]], len(tasks))
        yield f"--top-k {K} --max-groups {groups}", first(best_groups(total, groups)), perf_counter() - began
    limited: tuple[tuple[float, float, int | None], ...] = (
        (0.05, 1.3, 4),
        (0.05, 2.0, 4),
        (0.2, 2.0, 4),
        (0.2, 4.0, 4),
        (0.2, 4.0, None),
    )
    for share, ratio, most in limited:
        began = perf_counter()
        limits = Limits(share * parameters, ratio * problem.unsplit().operations)
        found = Solver(problem, family_of(problem.conflicts, most)).solve(limits)
        options = "" if most is None else f" --max-groups {most}"
        yield f"--max-params {share:.0%} --max-cost {ratio}{options}", found, perf_counter() - began


def report() -> str:
    """The table, as Markdown."""
    ranking, parameters = forty_tasks()
    problem = Problem(40, [item_of([layer], ranking.tasks or (), 0) for layer in ranking.layers], ranking.flow)
    shared = problem.unsplit().operations
    rows = []
    for name, found, seconds in choices(ranking, parameters):
        copies = [len(groups_of(partition)) for partition in found.partitions if any(partition)]
        rows.append([
            f"`{name}`", str(len(copies)), str(max(copies, default=1)),
            f"{(parameters + found.added) * 4 / 2**20:.1f}", f"{found.operations / shared:.2f}",
            f"{100 * (1 - found.removed / problem.total):.1f}", f"{seconds:.1f}",
        ])  # fmt: skip
    return table(["choice", "layers", "copies", "#P, MB", "operations", "conflict left, %", "seconds to find"], rows)


def main() -> None:
    """Show the table, and put it into the page if that is asked for."""
    parser = argparse.ArgumentParser(description="What forty tasks cost.")
    parser.add_argument("--write", action="store_true", help="write the table into docs/choosing.md")
    arguments = parser.parse_args()
    found = report()
    print(found)
    if arguments.write:
        PAGE.write_text(page_with(PAGE.read_text(), "forty", found))


if __name__ == "__main__":
    main()
