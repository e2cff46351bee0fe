"""Which way of choosing finds a structure that was planted: two camps of tasks that conflict on some modules.

    python -m benchmarks.structures            # show the table
    python -m benchmarks.structures --write    # and put it into docs/choosing.md

The trunk is a chain of three linear modules, each of which works on features of its own, so that it is known where the
tasks conflict: on a module, two of four tasks want the one change of its features and two the opposite one, or all want
the same. The labels are noisy. A split is right if no two tasks of different camps share a module on which they
conflict; how many copies it has for that, of three modules in all, is what it costs. The choices by a ranking are told
how many layers, or parameters, are right; the searches have nothing but their own resource loss.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import nn

from benchmarks.pages import page_with, table
from recon_cli.artifacts.manifest import Manifest
from recon_cli.artifacts.search import SearchResult
from recon_cli.checkpoints.saving import save_state_dict
from recon_cli.cli.app import main as recon

PAGE = Path(__file__).parents[1] / "docs" / "choosing.md"
WIDTH, MODULES = 4, 3
TASKS = "abcd"
CAMPS = ({"a", "c"}, {"b", "d"})
NOISE = 1.0
STEPS = 100
SEEDS = (0, 1, 2)
STRUCTURES: Mapping[str, tuple[int, ...]] = {
    "all": (0, 1, 2), "the last two": (1, 2), "the last": (2,), "the first": (0,), "the middle": (1,),
}  # fmt: skip
"""On which modules the camps conflict."""
SEARCHES = {"conal": "CoNAL", "conal-pro": "CoNAL-Pro", "bmtas": "BMTAS", "ltb": "LTB, with BMTAS's resource loss"}


class Block(nn.Module):
    """A linear layer on one part of the features, which begins as the identity."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place
        self.linear = nn.Linear(WIDTH, WIDTH, bias=False)
        nn.init.eye_(self.linear.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features to features, [N, WIDTH * MODULES]."""
        begin, end = self.place * WIDTH, (self.place + 1) * WIDTH
        return torch.cat([x[:, :begin], self.linear(x[:, begin:end]), x[:, end:]], dim=1)


class Network(nn.Module):
    """Three blocks, and a head for each task that leaves the features as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*(Block(place) for place in range(MODULES)))
        self.heads = nn.ModuleDict({task: nn.Identity() for task in TASKS})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """The features, for each task."""
        x = self.trunk(x)
        return {task: head(x) for task, head in self.heads.items()}


def batches(conflicting: Sequence[int], seed: int) -> list[object]:
    """Eight batches of 32 items with the labels of all tasks.

    :param conflicting: the modules on which the camps want the opposite.
    """
    generator = torch.Generator().manual_seed(seed)
    change = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(99)) / 2

    def wanted(x: torch.Tensor, task: str) -> torch.Tensor:
        parts = [
            part - part @ change if place in conflicting and task in CAMPS[1] else part + part @ change
            for place, part in enumerate(torch.split(x, WIDTH, dim=1))
        ]
        noise = torch.randn(x.shape, generator=generator)
        return torch.cat(parts, dim=1) + NOISE * noise

    drawn = torch.randn(8, 32, WIDTH * MODULES, generator=generator)
    return [(x, {task: wanted(x, task) for task in TASKS}) for x in drawn]


@dataclass(frozen=True)
class Outcome:
    """What was chosen.

    :ivar right: whether no two camps share a module on which they conflict.
    :ivar copies: of all modules together.
    """

    right: bool
    copies: int


def chosen(groups: Sequence[Sequence[Sequence[str]]], conflicting: Sequence[int]) -> Outcome:
    """What a choice comes to.

    :param groups: for each module, the tasks of its copies.
    """
    right = all(any(set(group) <= camp for camp in CAMPS) for place in conflicting for group in groups[place])
    return Outcome(right, sum(map(len, groups)))


def by_ranking(folder: Path, conflicting: Sequence[int], options: Sequence[str]) -> Outcome:
    """Profile, rank and split, in the folder with the config."""
    checkpoint, scores, ranking = (folder / name for name in ("network.safetensors", "scores.json", "ranking.json"))
    save_state_dict(Network().state_dict(), checkpoint)
    run("profile", folder / "config.json", "-o", scores)
    run("rank", scores, "-o", ranking)
    run("split", checkpoint, "--ranking", ranking, *options, "-o", folder / "branched.safetensors")
    manifest = Manifest.read(folder / "branched.manifest.json")
    split = {layer.name: [branch.tasks for branch in layer.branches] for layer in manifest.layers}
    return chosen([split.get(f"trunk.{place}.linear", [TASKS]) for place in range(MODULES)], conflicting)


def by_search(folder: Path, conflicting: Sequence[int], method: str) -> Outcome:
    """Search, in the folder with the config."""
    run("search", folder / "config.json", "--method", method, "-o", folder / "search.json")
    return chosen([module.groups for module in SearchResult.read(folder / "search.json").modules], conflicting)


def run(*arguments: str | Path) -> None:
    """Run a command of Recon that has to succeed."""
    if recon([*map(str, arguments), "-q"]) != 0:
        raise SystemExit(f"recon {' '.join(map(str, arguments))} failed")


def outcomes(conflicting: Sequence[int], seed: int) -> dict[str, Outcome]:
    """What every way of choosing finds."""
    right = len(conflicting)
    rankings = {
        "Recon as published, `--top-k`": ["--top-k", str(right)],
        "Recon, `--max-params`": ["--max-params", str(WIDTH * WIDTH * right)],
    }
    found = {}
    for name, options in rankings.items():
        with tempfile.TemporaryDirectory() as folder:
            write_config(Path(folder), conflicting, seed)
            found[name] = by_ranking(Path(folder), conflicting, options)
    for method, title in SEARCHES.items():
        with tempfile.TemporaryDirectory() as folder:
            sampling = {"sampling": {"resource_weight": 0.1}} if method in ("bmtas", "ltb") else {}
            write_config(Path(folder), conflicting, seed, **sampling)
            found[title] = by_search(Path(folder), conflicting, method)
    return found


def write_config(folder: Path, conflicting: Sequence[int], seed: int, **search: Any) -> None:
    """Write the config of all ways: each has as many steps, CoNAL-Pro in each of its stages."""
    (folder / "config.json").write_text(json.dumps(config(conflicting, seed, **search)))


def config(conflicting: Sequence[int], seed: int, **search: Any) -> dict[str, Any]:
    """The config."""

    def data(seed: int) -> dict[str, Any]:
        return {"target": "benchmarks.structures:batches", "kwargs": {"conflicting": list(conflicting), "seed": seed}}

    return {
        "model": {"target": "benchmarks.structures:Network"},
        "tasks": [{"name": task, "loss": "mse_loss", "label": task} for task in TASKS],
        "data": data(seed),
        "validation": data(seed + 1000),
        "optimizer": {"target": "SGD", "kwargs": {"lr": 0.1}},
        "profile": {"iterations": STEPS},
        "search": {"iterations": STEPS, "alpha_lr": 0.1, **search},
        "seed": seed,
    }


def report() -> str:
    """The table, as Markdown: for every structure, how often a way was right, and its copies in the mean."""
    runs = {name: [outcomes(places, seed) for seed in SEEDS] for name, places in STRUCTURES.items()}
    ways = list(next(iter(runs.values()))[0])
    rows = [["what is right", *(f"{MODULES + len(places)} copies" for places in STRUCTURES.values())]]
    for way in ways:
        cells = []
        for of_structure in runs.values():
            found = [each[way] for each in of_structure]
            cells.append(f"{sum(one.right for one in found)} of {len(found)}, {fmean(one.copies for one in found):.1f}")
        rows.append([way, *cells])
    return table(["conflicts on", *STRUCTURES], rows)


def main() -> None:
    """Show the table, and put it into the page if that is asked for."""
    parser = argparse.ArgumentParser(description="Which way of choosing finds a structure that was planted.")
    parser.add_argument("--write", action="store_true", help="write the table into docs/choosing.md")
    arguments = parser.parse_args()
    found = report()
    print(found)
    if arguments.write:
        PAGE.write_text(page_with(PAGE.read_text(), "structures", found))


if __name__ == "__main__":
    main()
