"""Which score finds the layers that conflict in truth, where the truth is known.

    python -m benchmarks.planted            # precision at k of every score
    python -m benchmarks.planted --write    # and into docs/scores.md, with the picture

Of 40 layers, whose sizes go from 16 to 2.4 million parameters, 10 have a conflict: the gradient of the second task is
the first one's, times a number below 0, beside a random direction. The others' gradients are random directions. In a
steady conflict that number is the same in every iteration; in a changing one its sign is drawn anew, and it is twice as
large.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.pages import page_with
from recon_cli.artifacts.method import JOINT
from recon_cli.artifacts.scores import Z_LEVELS, ScoredLayer, Scores
from recon_cli.artifacts.versions import Versions
from recon_cli.profiling.tally import ConflictTally
from recon_cli.ranking.rank import rank

Way = Literal["steady", "changing"]
Vector = npt.NDArray[np.float64]

LAYERS = 40
PLANTED = 10
ITERATIONS = 300
SMALLEST, LARGEST = 16, 2_400_000
STRENGTHS = (0.01, 0.02, 0.05, 0.1, 0.2)
SEEDS = range(10)
SEVERITIES = (-0.02, -0.1)

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "scores.md"
PICTURE = DOCS / "pictures" / "planted.svg"


@dataclass(frozen=True)
class Score:
    """A way to rank, and what it is called in table and picture."""

    name: str
    kind: str
    severity: float | None = None


SCORES = (
    Score("conflicts, S = -0.1", "conflicts", -0.1),
    Score("conflicts, S = -0.02", "conflicts", -0.02),
    Score("excess, S = -0.1", "excess", -0.1),
    Score("excess, S = -0.02", "excess", -0.02),
    Score("fitted, S = -0.1", "fitted", -0.1),
    Score("magnitude", "magnitude"),
    Score("z", "z"),
)


@dataclass(frozen=True)
class Profile:
    """A profile whose truth is known.

    :ivar planted: the names of the layers that have a conflict.
    """

    scores: Scores
    planted: frozenset[str]


def profile(seed: int, strength: float, way: Way, iterations: int = ITERATIONS) -> Profile:
    """Profile two tasks of known conflicts.

    :param strength: by how much of its length the second gradient points against the first one, in (0, 0.5).
    """
    generator = np.random.default_rng(seed)
    sizes = np.geomspace(SMALLEST, LARGEST, LAYERS).round().astype(int)
    planted = generator.choice(LAYERS, PLANTED, replace=False)
    there = torch.ones(2, dtype=torch.bool)
    tally = ConflictTally(LAYERS, 2, 1, SEVERITIES, sizes=sizes.tolist())
    for _ in range(iterations):
        against = np.zeros(LAYERS)
        against[planted] = strength
        if way == "changing":
            against *= generator.choice([-2, 2], LAYERS)
        # Of two random directions (1 + cos) / 2 ~ Beta((d - 1) / 2, (d - 1) / 2).
        cosines = 2 * generator.beta((sizes - 1) / 2, (sizes - 1) / 2) - 1
        tally.add(0, torch.from_numpy(_grams(against, cosines)), there.expand(LAYERS, 2), there)
    return Profile(_scores(tally, sizes.tolist(), iterations), frozenset(f"layer{place}" for place in planted.tolist()))


def _grams(against: Vector, cosines: Vector) -> Vector:
    """Of g_1 = u and g_2 = -a u + sqrt(1 - a^2) v, with unit vectors u and v that have these cosines."""
    beside = np.sqrt(1 - against**2)
    product = -against + beside * cosines
    square = 1 - 2 * against * beside * cosines
    return np.stack([np.ones_like(product), product, product, square], 1).reshape(-1, 2, 2)


def _scores(tally: ConflictTally, sizes: Sequence[int], iterations: int) -> Scores:
    layers = [
        ScoredLayer(
            name=f"layer{place}",
            type="Linear",
            aliases=(),
            parameters=(f"layer{place}.weight",),
            size=size,
            bytes=4 * size,
            tasks=("a", "b"),
            stages=tally.layer_stages(place),
            series=tally.layer_series(place),
            between=tally.between(place),
        )
        for place, size in enumerate(sizes)
    ]
    return Scores(
        tasks=("a", "b"),
        complete=True,
        steps=iterations,
        steps_requested=iterations,
        iterations=iterations,
        iterations_requested=iterations,
        stage_iterations=(iterations,),
        windows=tally.windows(),
        task_iterations=tally.task_iterations(),
        pair_iterations=tally.pair_iterations(),
        method=JOINT,
        seed=None,
        device="cpu",
        batch_restarts=0,
        severities=SEVERITIES,
        z_levels=Z_LEVELS,
        config_digest=None,
        checkpoint_digest=None,
        versions=Versions(recon="0", torch=torch.__version__),
        trunk=tally.layer_stages(0),
        layers=tuple(layers),
        unranked=(),
    )


def precision(found: Profile, score: Score) -> float:
    """Precision at k: the share of the first k layers, k being the number of those with a conflict, that have one."""
    names = rank(found.scores, score.severity, kind=score.kind).names
    return len(found.planted & set(names[: len(found.planted)])) / len(found.planted)


def measure() -> dict[Way, dict[str, list[float]]]:
    """The mean precision of every score, at each of the strengths."""
    found: dict[Way, dict[str, list[float]]] = {}
    for way in get_args(Way):
        columns = [
            [[precision(each, score) for score in SCORES] for each in (profile(seed, strength, way) for seed in SEEDS)]
            for strength in STRENGTHS
        ]
        found[way] = {
            score.name: [fmean(row[place] for row in column) for column in columns]
            for place, score in enumerate(SCORES)
        }
    return found


def table(found: Mapping[Way, Mapping[str, Sequence[float]]]) -> str:
    """The precisions, as a table of Markdown."""
    ways = get_args(Way)
    head = ["score", *(f"{way}, {strength:g}" for way in ways for strength in STRENGTHS)]
    rows = [[name, *(f"{value:.2f}" for way in ways for value in found[way][name])] for name in found[ways[0]]]
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def draw(found: Mapping[Way, Mapping[str, Sequence[float]]], path: Path) -> None:
    """The precisions as a picture, the same bytes each time."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "recon", "font.size": 8.0}):
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for way, ax in zip(get_args(Way), axes, strict=True):
            for mark, (name, values) in zip("os^vDPx", found[way].items(), strict=True):
                ax.plot(STRENGTHS, values, marker=mark, markersize=4, linewidth=1.2, label=name)
            ax.axhline(PLANTED / LAYERS, color="0.6", linewidth=0.8, linestyle=":")
            ax.set(xscale="log", ylim=(0, 1.03), title=f"{way} conflict", xlabel="strength of the conflict")
            ax.set_xticks(STRENGTHS, [f"{strength:g}" for strength in STRENGTHS])
            ax.minorticks_off()
        axes[0].set_ylabel("precision at 10")
        axes[1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        figure.savefig(path, metadata={"Date": None, "Creator": None})


def main() -> None:
    """Show the precisions, and put them into the docs if that is asked for."""
    parser = argparse.ArgumentParser(description="Which score finds planted conflicts.")
    parser.add_argument("--write", action="store_true", help="write table and picture into docs/")
    arguments = parser.parse_args()
    found = measure()
    print(table(found))
    if arguments.write:
        PAGE.write_text(page_with(PAGE.read_text(), "planted", table(found)))
        draw(found, PICTURE)


if __name__ == "__main__":
    main()
