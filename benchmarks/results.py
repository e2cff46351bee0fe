"""The tables of docs/results.md, from the folders that `recon run` wrote.

    python -m benchmarks.results joint methods --profiles 0.json 1.json 2.json            # show them
    python -m benchmarks.results joint methods --profiles 0.json 1.json 2.json --write    # and put them into the page

The folders hold ways of training one network on one data set; the first one has the joint training that all are
compared with, and the single-task networks. The profiles are of whole trainings, one of each seed. The paper's numbers
stand beside ours where it has them: Recon (ICLR 2023), Tables 1, 6, 7, 11, 12 and 14.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

from benchmarks.pages import page_with, table
from recon_cli.artifacts.conflict_comparison import ComparedRun, ConflictComparison
from recon_cli.artifacts.result_comparison import ComparedResults, ResultComparison
from recon_cli.artifacts.scores import Scores
from recon_cli.artifacts.training import Results, Statistic
from recon_cli.conflicts.compare import compare_conflicts
from recon_cli.conflicts.runs import Run as ConflictRun
from recon_cli.ranking.agreement import layer_distance
from recon_cli.ranking.rank import rank
from recon_cli.results.compare import compare_results
from recon_cli.results.runs import Run as ResultRun

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
SEVERITY = -0.1
BOUND = -0.01
EDGES = (0.0, -0.01, -0.02, -0.03)

ACCURACIES = {
    "single-task": (89.63, 98.37, None, 85.62),
    "joint": (88.82, 97.42, -0.94, 42.81),
    "joint-recon": (89.26, 98.13, -0.33, 43.43),
    "mgda": (89.46, 95.19, -1.71, 42.81),
    "mgda-recon": (89.28, 98.33, -0.22, 43.43),
    "pcgrad": (88.68, 97.37, -1.04, 42.81),
    "pcgrad-recon": (89.77, 98.30, 0.04, 43.43),
    "graddrop": (88.57, 97.38, -1.10, 42.81),
    "graddrop-recon": (89.51, 98.25, -0.13, 43.43),
    "cagrad": (88.85, 97.47, -0.90, 42.81),
    "cagrad-recon": (89.65, 98.28, -0.04, 43.43),
}
"""Table 1: accuracy on FashionMNIST and MNIST, delta m, #P. (Its T1 is MNIST.)"""

REDUCTIONS = {
    "joint-recon": 69.82,
    "joint-rsl": -52.94,
    "joint-rsp": 40.13,
    "mgda": 7.80,
    "mgda-recon": 79.62,
    "graddrop": 7.01,
    "graddrop-recon": 67.20,
    "pcgrad": 3.74,
    "pcgrad-recon": 72.21,
    "cagrad": -0.08,
    "cagrad-recon": 75.32,
}
"""Table 6: reduction of the cosines below -0.01, in percent."""

STAGES = {(1, 2): 2.39, (1, 3): 1.85, (2, 3): 2.14, (1, 4): 1.95, (2, 4): 2.24, (3, 4): 0.68}
"""Table 12: distances between rankings of quarters of the training."""

RULES = {
    ("joint", "cagrad"): 1.07,
    ("joint", "pcgrad"): 0.78,
    ("joint", "graddrop"): 0.59,
    ("joint", "mgda"): 1.71,
    ("pcgrad", "cagrad"): 1.17,
    ("cagrad", "graddrop"): 0.83,
    ("pcgrad", "graddrop"): 0.68,
    ("cagrad", "mgda"): 1.32,
    ("pcgrad", "mgda"): 1.90,
    ("mgda", "graddrop"): 1.56,
}
"""Table 14: distances between rankings that different update rules give."""


def trained(folders: Sequence[Path]) -> dict[str, Path]:
    """The folder of every way of training, by its name."""
    return {file.parent.name: file.parent for folder in folders for file in sorted(folder.glob("*/results.json"))}


def percents(statistic: Statistic | None, factor: float = 100) -> str:
    """A share over the seeds, in percent."""
    if statistic is None:
        return ""
    spread = "" if statistic.deviation is None else f" ± {factor * statistic.deviation:.2f}"
    return f"{factor * statistic.mean:.2f}{spread}"


def beside(value: float | None) -> str:
    """What the paper has, if it has it."""
    return "" if value is None else f"{value:.2f}"


def results_table(compared: ResultComparison) -> str:
    """Accuracies, delta m, size, operations and time (Tables 1, 7 and 11)."""
    head = ["network", "fashion", "mnist", "delta m", "#P, MB", "operations", "time", "paper: fashion", "mnist"]
    return table([*head, "delta m"], [_results_row(run) for run in compared.runs])


def _results_row(run: ComparedResults) -> list[str]:
    fashion, mnist, delta_m, _ = ACCURACIES.get(run.name, (None, None, None, None))
    return [
        run.name,
        percents(run.figures["fashion"]["accuracy"]),
        percents(run.figures["mnist"]["accuracy"]),
        percents(None if run.delta_m is None else run.delta_m.total, 1),
        f"{run.bytes / 2**20:.2f}",
        beside(run.operations_ratio),
        beside(run.seconds_ratio),
        *map(beside, (fashion, mnist, delta_m)),
    ]


def conflicts_table(seeds: Sequence[ConflictComparison]) -> str:
    """How the cosines are distributed, and by how much conflicts were reduced (Table 6), over the seeds."""
    intervals = ["[0, 1]", "[-0.01, 0)", "[-0.02, -0.01)", "[-0.03, -0.02)", "[-1, -0.03)"]
    rows = [_conflicts_row(runs) for runs in zip(*(each.runs for each in seeds), strict=True)]
    return table(["network", *intervals, "reduction, %", "paper"], rows)


def _conflicts_row(seeds: Sequence[ComparedRun]) -> list[str]:
    name = seeds[0].name
    shares = zip(*([mass.share for mass in run.masses] for run in seeds), strict=True)
    reductions = [run.reduction_percent for run in seeds if run.reduction_percent is not None]
    return [
        name,
        *(percents(Statistic.of(share)) for share in shares),
        percents(Statistic.of(reductions), 1) if reductions else "",
        # The paper has one draw of random layers, or their mean.
        beside(REDUCTIONS.get(re.sub(r"-\d+$", "", name))),
    ]


def stages_table(scores: Sequence[Scores]) -> str:
    """Distances between rankings by quarters of the training (Eq. 22, Table 12), and of one quarter by seeds."""
    found = [{stage: rank(each, SEVERITY, stage).names for stage in (1, 2, 3, 4)} for each in scores]
    quarters = [
        [f"{a} and {b}", distances((of_seed[a], of_seed[b]) for of_seed in found), beside(STAGES[a, b])]
        for a, b in combinations((1, 2, 3, 4), 2)
    ]
    seeds = [
        [f"{stage}, of two seeds", distances(combinations([of_seed[stage] for of_seed in found], 2)), ""]
        for stage in (1, 2, 3, 4)
    ]
    return table(["quarters", "distance", "paper"], [*quarters, *seeds])


def rules_table(scores: Mapping[str, Sequence[Scores]]) -> str:
    """Distances between rankings by update rules (Eq. 22, Table 14) of one seed, and by seeds of one rule."""
    names = {rule: [rank(each, SEVERITY, None).names for each in seeds] for rule, seeds in scores.items()}
    rules = [
        [f"{a} and {b}", distances(zip(names[a], names[b], strict=True)), beside(RULES.get((a, b), RULES.get((b, a))))]
        for a, b in combinations(names, 2)
    ]
    seeds = [[f"{rule}, of two seeds", distances(combinations(names[rule], 2)), ""] for rule in names]
    return table(["rules", "distance", "paper"], [*rules, *seeds])


def distances(pairs: Iterable[tuple[Sequence[str], Sequence[str]]]) -> str:
    """Mean and deviation of the distances of several pairs of rankings (Eq. 22)."""
    return percents(Statistic.of([layer_distance(a, b) for a, b in pairs]), 1)


def sections(folders: Sequence[Path], profiles: Sequence[Path]) -> dict[str, str]:
    """Every table, by its name in the page."""
    ways = trained(folders)
    results = {name: ResultRun(name, Results.read(folder / "results.json")) for name, folder in ways.items()}
    order = sorted(results, key=lambda name: (name != "joint", not name.startswith("joint"), name == "single-task"))
    compared = compare_results([results[name] for name in order], single_task=results["single-task"])
    measured = {
        name: [Scores.read(ways[name] / f"seed-{seed}" / "scores.json") for seed in results["joint"].results.seeds]
        for name in order
        if name != "single-task"
    }
    by_seed = [list(zip(measured, scores, strict=True)) for scores in zip(*measured.values(), strict=True)]
    conflicts = [compare_conflicts([ConflictRun(*one) for one in runs], edges=EDGES, bound=BOUND) for runs in by_seed]
    return {
        "results": results_table(compared),
        "conflicts": conflicts_table(conflicts),
        "stages": stages_table([Scores.read(profile) for profile in profiles]),
        # The branched networks have other layers to rank.
        "rules": rules_table({name: scores for name, scores in measured.items() if "-" not in name}),
    }


def main() -> None:
    """Show the tables, and put them into the page if that is asked for."""
    parser = argparse.ArgumentParser(description="The tables of docs/results.md.")
    parser.add_argument("folders", type=Path, nargs="+", help="folders that `recon run` wrote")
    parser.add_argument("--profiles", type=Path, nargs="+", required=True, help="scores of whole trainings, by seed")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/results.md")
    arguments = parser.parse_args()
    tables = sections(arguments.folders, arguments.profiles)
    print("\n".join(tables.values()))
    if arguments.write:
        page = PAGE.read_text()
        for name, content in tables.items():
            page = page_with(page, name, content)
        PAGE.write_text(page)


if __name__ == "__main__":
    main()
