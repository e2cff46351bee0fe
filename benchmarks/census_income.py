"""How good every update rule makes the network of GradOPS on Census-Income (its Table 1).

    python -m benchmarks.census_income figures.jsonl                                     # all rules, 200 epochs each
    python -m benchmarks.census_income figures.jsonl --methods joint pcgrad --seeds 0 2  # some of it
    python -m benchmarks.census_income figures.jsonl --write                             # and the table in docs/

Every run that ends adds a line to the file, and is not made again; one that is interrupted is. It takes one thread, so
that several processes, each with seeds or methods of its own, can add to one file. `RECON_DATA` names the folder with
the full set; `--data small` takes the part that ships.

The network, its dropout, the batches of 1024 and Adam at 1e-4 are the paper's. A run's figures are the areas under the
ROC curves after its last epoch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.pages import page_with
from recon_cli.datasets.census_income import TASKS, CensusIncome, Part, census_income, small_census_income
from recon_cli.metrics.auc import area_under_curve
from recon_cli.rules.registry import RULES
from recon_cli.updating.in_loop import method_of
from recon_cli.updating.rotations import rotated_for
from recon_cli.updating.updates import Updates
from recon_cli.zoo import census_mlp

BATCH = 1024
RATE = 1e-4
EPOCHS = 200
SEEDS = (0, 1, 2)
ALPHAS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0)
PARAMETERS: dict[str, dict[str, Any]] = {
    "cagrad": {"c": 0.5},
    "gradnorm": {"alpha": 1.5},
    "rotograd": {"learning_rate": 0.2 * RATE},
}
"""What the paper found best for the first two; the rotations are to learn more slowly than the network."""
FEATURES = {"rotograd": "dropout"}
"""What rules see instead of the gradients of the trunk."""

METHODS: dict[str, dict[str, Any]] = {
    **{
        name: {"name": name, "parameters": PARAMETERS.get(name, {}), "feature": FEATURES.get(name)}
        for name in RULES
        if name != "gradops"
    },
    **{f"gradops, alpha {alpha:g}": {"name": "gradops", "parameters": {"alpha": alpha}} for alpha in ALPHAS},
}

DATA: dict[str, Callable[..., CensusIncome]] = {"full": census_income, "small": small_census_income}
PAGE = Path(__file__).parents[1] / "docs" / "census_income.md"


@dataclass(frozen=True)
class Run:
    """What one run came to.

    :ivar seconds: what the training took.
    :ivar validation: task -> area under the ROC curve.
    :ivar test: the same on the test part.
    """

    method: str
    seed: int
    data: str
    epochs: int
    seconds: float
    validation: dict[str, float]
    test: dict[str, float]


def batches_of(rows: torch.Tensor, size: int) -> list[torch.Tensor]:
    """Rows in batches; the last one may be smaller."""
    return [rows[at : at + size] for at in range(0, len(rows), size)]


def losses_on(model: nn.Module, data: CensusIncome, rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """The tasks' losses on some rows."""
    inputs, labels = data.batch(rows)
    return {task: F.binary_cross_entropy_with_logits(output, labels[task]) for task, output in model(inputs).items()}


def train(data: CensusIncome, method: Mapping[str, Any], epochs: int, seed: int) -> nn.Module:
    """Train the network by a method."""
    torch.manual_seed(seed)
    model = rotated_for(census_mlp(data.features), TASKS, method_of(method))
    updates = Updates(model, TASKS, method, seed=seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for rows in batches_of(torch.randperm(len(data), generator=order), BATCH):
            optimizer.zero_grad()
            updates.backward(losses_on(model, data, rows))
            optimizer.step()
            updates.after_step(lambda rows=rows: losses_on(model, data, rows))  # type: ignore[misc]  # mypy knows no type for a lambda's default
        updates.after_epoch()
    return model


@torch.no_grad()
def areas(model: nn.Module, data: CensusIncome) -> dict[str, float]:
    """Each task's area under the ROC curve."""
    model.eval()
    outputs = [model(data.batch(rows)[0]) for rows in batches_of(torch.arange(len(data)), 8 * BATCH)]
    return {
        task: area_under_curve(torch.cat([output[task] for output in outputs]), labels)
        for task, labels in data.labels.items()
    }


def run(parts: Mapping[Part, CensusIncome], data: str, method: str, epochs: int, seed: int) -> Run:
    """Train by a method, and look at what came of it."""
    begun = time.perf_counter()
    model = train(parts["train"], METHODS[method], epochs, seed)
    seconds = time.perf_counter() - begun
    return Run(method, seed, data, epochs, seconds, areas(model, parts["validation"]), areas(model, parts["test"]))


def read_runs(path: Path) -> list[Run]:
    """The runs of a file, which may not be there yet."""
    return [Run(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def table_of(runs: Sequence[Run]) -> str:
    """The means over the seeds, as a table of Markdown: test areas in percent."""
    lines = [f"| rule | {' | '.join(TASKS)} | average | seeds |", "|---|" + "---|" * (len(TASKS) + 2)]
    for method in METHODS:
        found = [one for one in runs if one.method == method]
        if not found:
            continue
        cells = [f"{100 * statistics.fmean(one.test[task] for one in found):.2f}" for task in TASKS]
        averages = [100 * statistics.fmean(one.test.values()) for one in found]
        spread = f" ± {statistics.stdev(averages):.2f}" if len(found) > 1 else ""
        cells += [f"{statistics.fmean(averages):.2f}{spread}", str(len(found))]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def page_of(page: str, runs: Sequence[Run], epochs: int) -> str:
    """The page with another table in it, and what was run for it."""
    hours = sum(one.seconds for one in runs) / 3600
    what = f"{epochs} epochs; {len(runs)} runs of one thread each, {hours:.1f} hours of training in all.\n"
    return page_with(page, "table", f"{what}\n{table_of(runs)}")


def main() -> None:
    """Make the runs that are asked for and not there yet, and show the table."""
    parser = argparse.ArgumentParser(description="How good every update rule is on Census-Income.")
    parser.add_argument("figures", type=Path, help="a JSON line for each run, also of earlier ones")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS), metavar="METHOD")
    parser.add_argument("--data", choices=DATA, default="full")
    parser.add_argument("--write", action="store_true", help="write the table into docs/census_income.md")
    arguments = parser.parse_args()
    if arguments.write and arguments.data != "full":
        parser.error("the page is of the full set: leave out --data")
    torch.set_num_threads(1)
    parts: dict[Part, CensusIncome] = {}
    for seed in arguments.seeds:
        for method in arguments.methods:
            asked = (method, seed, arguments.data, arguments.epochs)
            if asked in [(one.method, one.seed, one.data, one.epochs) for one in read_runs(arguments.figures)]:
                continue
            if not parts:
                parts = {part: DATA[arguments.data](part=part) for part in ("train", "validation", "test")}
            found = run(parts, arguments.data, method, arguments.epochs, seed)
            with arguments.figures.open("a") as file:
                file.write(json.dumps(asdict(found)) + "\n")
    of_this = [
        one for one in read_runs(arguments.figures) if (one.data, one.epochs) == (arguments.data, arguments.epochs)
    ]
    print(table_of(of_this))
    if arguments.write:
        PAGE.write_text(page_of(PAGE.read_text(), of_this, arguments.epochs))


if __name__ == "__main__":
    main()
