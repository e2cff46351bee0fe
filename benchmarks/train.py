"""What `recon train` costs over a loop written by hand: `python -m benchmarks.train [--rounds 3] [--steps 100]`.

A training by `recon train`, joint and without evaluations, and a plain PyTorch loop with the same network, weights,
batches, optimizer and deterministic kernels take turns, step by step: the loop makes its step where Recon tells its
observer that one is done. So all that Recon does in a step is counted: the batch, the checks, the bookkeeping, the
attention to signals, and the log every 100 steps. A round is a training of its own; its ratio is the median over pairs
of neighbouring steps. Shown are the time of a plain step, the median ratio of the rounds with the lowest and the
highest, the ratio of the sums of all times, and the median of what a step of Recon takes longer. One thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from benchmarks.branch import manifest_of
from recon_cli import branch, zoo
from recon_cli.artifacts.manifest import Manifest
from recon_cli.config.schema import Config, LoadedConfig
from recon_cli.datasets import small_census_income, small_multi_fashion_mnist
from recon_cli.experiment.branching import Branching
from recon_cli.runs.observer import Nobody
from recon_cli.training.request import TrainRequest
from recon_cli.training.run import train

WARM_UP = 3
"""Steps that are not counted."""

LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "binary_cross_entropy_with_logits": F.binary_cross_entropy_with_logits,
}
DATA: dict[str, Callable[[], Dataset[Any]]] = {
    "small_multi_fashion_mnist": small_multi_fashion_mnist,
    "small_census_income": small_census_income,
}


@dataclass(frozen=True)
class Case:
    """A network, its data and its optimizer, by the names that a config has for them.

    :ivar split: the layer that is split, if one is.
    """

    network: str
    data: str
    tasks: tuple[str, ...]
    loss: str
    batch_size: int
    optimizer: str
    rate: float
    split: str | None = None

    @property
    def config(self) -> Config:
        """What `recon train` reads."""
        return Config.model_validate(
            {
                "model": {"target": f"recon_cli.zoo:{self.network}"},
                "tasks": [{"name": task, "loss": self.loss, "label": task} for task in self.tasks],
                "data": {"target": f"recon_cli.datasets:{self.data}", "batch_size": self.batch_size},
                "optimizer": {"target": self.optimizer, "kwargs": {"lr": self.rate}},
                "device": "cpu",
            }
        )

    def make(self) -> nn.Module:
        """The network before it is split."""
        model: nn.Module = getattr(zoo, self.network)()
        return model

    def manifest(self) -> Manifest | None:
        """How it is split."""
        return None if self.split is None else manifest_of(self.make(), self.split, self.tasks)


_IMAGES = ("small_multi_fashion_mnist", ("fashion", "mnist"), "cross_entropy", 64, "SGD", 0.05)
_ROWS = ("small_census_income", ("income", "marital", "education"), "binary_cross_entropy_with_logits", 1024, "Adam")

CASES = {
    "small ResNet, batch of 64": Case("small_resnet", *_IMAGES),
    "the same, branched": Case("small_resnet", *_IMAGES, split="layer3.0.conv1"),
    "ResNet-18, batch of 64": Case("resnet18", *_IMAGES),
    "MLP, batch of 1024": Case("census_mlp", *_ROWS, 1e-4),
}


class PlainLoop:
    """The loop that somebody writes by hand."""

    def __init__(self, case: Case, manifest: Manifest | None) -> None:
        self._case = case
        model = case.make()
        self.model = model if manifest is None else branch(model, manifest)
        self._loader = DataLoader(
            DATA[case.data](),
            batch_size=case.batch_size,
            shuffle=True,
            drop_last=True,
            generator=torch.Generator().manual_seed(0),
        )
        self._batches = self._endless()
        self._optimizer = getattr(torch.optim, case.optimizer)(self.model.parameters(), lr=case.rate)
        self._loss = LOSSES[case.loss]

    def step(self) -> None:
        """One step by the mean of the losses."""
        inputs, labels = next(self._batches)
        self._optimizer.zero_grad()
        outputs = self.model(inputs)
        losses = [self._loss(outputs[task], labels[task]) for task in self._case.tasks]
        torch.autograd.backward(torch.stack(losses).mean())
        self._optimizer.step()

    def _endless(self) -> Iterator[Any]:
        while True:
            yield from self._loader


class TakingTurns(Nobody):
    """Watches a training, and makes a step of the plain loop after each of its own.

    :ivar ours: the seconds of Recon's steps.
    :ivar plain: those of the loop's.
    """

    def __init__(self, case: Case, manifest: Manifest | None) -> None:
        self._case = case
        self._manifest = manifest
        self.ours: list[float] = []
        self.plain: list[float] = []

    def started(self, *_: object) -> None:
        """Begin with the weights that the training begins with."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.loop = PlainLoop(self._case, self._manifest)
        self._since = time.perf_counter()

    def advanced(self, *_: object) -> None:
        """A step is done; it is the other's turn."""
        ours = time.perf_counter()
        self.loop.step()
        plain = time.perf_counter()
        self.ours.append(ours - self._since)
        self.plain.append(plain - ours)
        self._since = time.perf_counter()


@dataclass(frozen=True)
class Figures:
    """What was found of a case.

    :ivar plain_ms: a step of the plain loop, the median.
    :ivar ratios: for each round the median ratio.
    :ivar whole: the ratio of the sums.
    :ivar added_us: what a step of Recon takes longer, the median.
    """

    case: str
    plain_ms: float
    ratios: list[float]
    whole: float
    added_us: float

    def line(self) -> str:
        """A row of the table."""
        low, median, high = min(self.ratios), statistics.median(self.ratios), max(self.ratios)
        shown = f"{self.plain_ms:>9.2f} ms{median:>9.3f}{f'{low:.3f} to {high:.3f}':>18}{self.whole:>9.3f}"
        return f"{self.case:28}{shown}{self.added_us:>9.0f} us"


def a_training(case: Case, manifest: Manifest | None, steps: int, folder: Path) -> TakingTurns:
    """One training, watched."""
    config = LoadedConfig(config=case.config, path=folder / "recon.yaml", digest="")
    branching = None if manifest is None else Branching(manifest, folder / "the manifest", "")
    watch = TakingTurns(case, manifest)
    train(TrainRequest(config, branching=branching, iterations=steps), watch, folder / "out")
    return watch


def measure(name: str, rounds: int, steps: int) -> Figures:
    """All rounds of a case."""
    case = CASES[name]
    manifest = case.manifest()
    ratios: list[float] = []
    ours: list[float] = []
    plain: list[float] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            watch = a_training(case, manifest, WARM_UP + steps, Path(folder))
        ours += watch.ours[WARM_UP:]
        plain += watch.plain[WARM_UP:]
        ratios.append(statistics.median(a / b for a, b in zip(ours[-steps:], plain[-steps:], strict=True)))
    return Figures(
        case=name,
        plain_ms=1e3 * statistics.median(plain),
        ratios=ratios,
        whole=sum(ours) / sum(plain),
        added_us=1e6 * statistics.median(a - b for a, b in zip(ours, plain, strict=True)),
    )


def main() -> None:
    """Measure all cases."""
    parser = argparse.ArgumentParser(description="What `recon train` costs over a plain loop.")
    parser.add_argument("--rounds", type=int, default=3, help="trainings of each network")
    parser.add_argument("--steps", type=int, default=100, help="steps of each training")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'':28}{'plain step':>12}{'ratio':>9}{'of the rounds':>18}{'of sums':>9}{'added':>12}", flush=True)
    figures = []
    for name in CASES:
        figures.append(measure(name, arguments.rounds, arguments.steps))
        print(figures[-1].line(), flush=True)
        if arguments.json:
            document = {"torch": torch.__version__, "cases": [asdict(one) for one in figures]}
            arguments.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
