"""What profiling costs, against a plain step of joint training: `python -m benchmarks.profile [case ...]`.

All ways run in one process, in turn, several rounds after one to warm up; a figure is the median over the rounds of a
way's time relative to the joint step of the same round. "published" does what the paper's own code does: one [P, T]
matrix on the CPU, a backward pass and two copies of every gradient per task, and per layer and pair two normalised
vectors; "sequential" is one `autograd.grad` per task and one matrix product per layer; "unsampled" is a step that
`ConflictProfiler` does not measure. The last columns are the largest
differences between the cosines of our way and those of the other two, all in float32.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from recon_cli.layers.discovery import Layer, discover_layers
from recon_cli.profiling.cosines import cosines
from recon_cli.profiling.engine import GramEngine
from recon_cli.profiling.profiler import ConflictProfiler
from recon_cli.zoo import resnet18

Batch = tuple[torch.Tensor, torch.Tensor]
Step = Callable[[], torch.Tensor | None]


class Multi(nn.Module):
    """A trunk and a linear head for each task."""

    def __init__(self, trunk: nn.Module, features: int, tasks: int, classes: int = 10) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList(nn.Linear(features, classes) for _ in range(tasks))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Map a batch to logits [N, classes] for each task."""
        x = self.trunk(x)
        return [head(x) for head in self.heads]


class Recommender(nn.Module):
    """A large embedding, and a small network on the mean of what is looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(200_000, 32)
        self.net = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 64))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Map ids [N, L] to features [N, 64]."""
        features: torch.Tensor = self.net(self.table(ids).mean(1))
        return features


class Encoder(nn.Module):
    """A transformer encoder, averaged over the sequence."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(256, 8, 1024, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map sequences [N, L, 256] to features [N, 256]."""
        features: torch.Tensor = self.layers(x).mean(1)
        return features


class Trunk(nn.Module):
    """The trunk of the paper's ResNet-18."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = resnet18(in_channels=channels, classes={"features": 100})
        self.net.heads["features"] = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images to features [N, 100]."""
        features: torch.Tensor = self.net(x)["features"]
        return features


def mlp() -> nn.Module:
    """Four layers of 1024."""
    parts: list[nn.Module] = []
    for _ in range(4):
        parts += [nn.Linear(1024, 1024), nn.ReLU()]
    return nn.Sequential(*parts)


@dataclass(frozen=True)
class Case:
    """A network, its tasks and its batch."""

    make: Callable[[], nn.Module]
    features: int
    tasks: int
    batch: Callable[[], torch.Tensor]


CASES = {
    "resnet18 1x36x36 T=2 B=64": Case(lambda: Trunk(1), 100, 2, lambda: torch.randn(64, 1, 36, 36)),
    "resnet18 3x64x64 T=9 B=32": Case(lambda: Trunk(3), 100, 9, lambda: torch.randn(32, 3, 64, 64)),
    "resnet18 3x64x64 T=40 B=32": Case(lambda: Trunk(3), 100, 40, lambda: torch.randn(32, 3, 64, 64)),
    "mlp 4x1024 T=3 B=1024": Case(mlp, 1024, 3, lambda: torch.randn(1024, 1024)),
    "mlp 4x1024 T=3 B=64": Case(mlp, 1024, 3, lambda: torch.randn(64, 1024)),
    "transformer T=4 B=16": Case(Encoder, 256, 4, lambda: torch.randn(16, 64, 256)),
    "recommender T=3 B=1024": Case(Recommender, 64, 3, lambda: torch.randint(200_000, (1024, 16))),
}


class Bench:
    """One case, and all ways to do a step of it; each starts from the same weights and leaves them as they were."""

    def __init__(self, case: Case) -> None:
        torch.manual_seed(0)
        self.model = Multi(case.make(), case.features, case.tasks)
        self.tasks = case.tasks
        self.x = case.batch()
        self.labels = torch.randint(10, (case.tasks, len(self.x)))
        self.layers = [layer for layer in discover_layers(self.model) if not layer.name.startswith("heads.")]
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.SGD(self.parameters, lr=0.0)
        self.engine = GramEngine(self.model, self.layers)
        names = [f"task{number}" for number in range(case.tasks)]
        self.idle = ConflictProfiler(self.model, names, every=1 << 30)
        self.idle.backward(dict(zip(names, self.losses(), strict=True)))

    def losses(self) -> list[torch.Tensor]:
        """The loss of every task."""
        return [F.cross_entropy(output, label) for output, label in zip(self.model(self.x), self.labels, strict=True)]

    def joint(self) -> None:
        """A plain step of joint training."""
        self.optimizer.zero_grad()
        torch.autograd.backward(torch.stack(self.losses()).mean())
        self.optimizer.step()

    def ours(self) -> torch.Tensor:
        """The engine's step."""
        with self.engine.watching():
            losses = self.losses()
        found = self.engine.backward(losses, torch.full((self.tasks,), 1 / self.tasks))
        self.optimizer.step()
        return cosines(found.grams)

    def unsampled(self) -> None:
        """A step that `ConflictProfiler` does not sample."""
        self.optimizer.zero_grad()
        self.idle.backward(dict(zip(self.idle.tasks, self.losses(), strict=True)))
        self.optimizer.step()

    def sequential(self) -> torch.Tensor:
        """One `autograd.grad` per task, one matrix product per layer, the joint gradient by linearity."""
        losses = self.losses()
        own = [
            torch.autograd.grad(loss, self.parameters, retain_graph=i + 1 < self.tasks, allow_unused=True)
            for i, loss in enumerate(losses)
        ]
        index = {id(parameter): i for i, parameter in enumerate(self.parameters)}
        grams = []
        for layer in self.layers:
            rows = torch.stack([flat(gradients, layer, index) for gradients in own])
            grams.append((rows @ rows.T).double())
        for i, parameter in enumerate(self.parameters):
            parts = [gradients[i] for gradients in own if gradients[i] is not None]
            parameter.grad = torch.stack(parts).sum(0) / self.tasks
        self.optimizer.step()
        return cosines(torch.stack(grams))

    def published(self) -> torch.Tensor:
        """What the paper's own code does in a step."""
        shared = [parameter for layer in self.layers for parameter in layer.parameters.values()]
        matrix = torch.zeros(sum(parameter.numel() for parameter in shared), self.tasks)
        losses = self.losses()
        self.optimizer.zero_grad()
        for task, loss in enumerate(losses):
            torch.autograd.backward(loss, retain_graph=True)
            start = 0
            for parameter in shared:
                assert parameter.grad is not None
                matrix[start : start + parameter.numel(), task].copy_(parameter.grad.clone().view(-1))
                start += parameter.numel()
            for parameter in shared:
                assert parameter.grad is not None
                parameter.grad.zero_()
        result, start = [], 0
        for layer in self.layers:
            own = torch.stack(
                [torch.cat([matrix[start : start + layer.size, task].clone()]) for task in range(self.tasks)]
            )
            start += layer.size
            pairs = []
            for i in range(self.tasks):
                for j in range(i + 1, self.tasks):
                    one, two = own[i] / own[i].norm(), own[j] / own[j].norm()
                    pairs.append((one * two).sum())
            result.append(torch.stack(pairs))
        start = 0
        total = matrix.sum(1)
        for parameter in shared:
            parameter.grad = total[start : start + parameter.numel()].view_as(parameter).clone()
            start += parameter.numel()
        self.optimizer.step()
        return torch.stack(result).double().cpu()


def flat(gradients: Sequence[torch.Tensor | None], layer: Layer, index: dict[int, int]) -> torch.Tensor:
    """One task's gradient of a layer as a vector."""
    parts = [gradients[index[id(parameter)]] for parameter in layer.parameters.values()]
    return torch.cat([part.reshape(-1) for part in parts if part is not None])


def measure(name: str, case: Case) -> None:
    """Print one row of the table."""
    bench = Bench(case)
    ways: dict[str, Step] = {
        "joint": bench.joint,
        "published": bench.published,
        "sequential": bench.sequential,
        "ours": bench.ours,
        "unsampled": bench.unsampled,
    }
    # The published way takes half a minute for a step with 40 tasks.
    rounds = 3 if case.tasks > 20 else 7
    times: dict[str, list[float]] = {way: [] for way in ways}
    found: dict[str, torch.Tensor | None] = {}
    for number in range(rounds + 1):
        for way, step in ways.items():
            start = time.perf_counter()
            found[way] = step()
            if number:
                times[way].append(time.perf_counter() - start)
    ratios = {way: [t / j for t, j in zip(values, times["joint"], strict=True)] for way, values in times.items()}
    ours, sequential, published = found["ours"], found["sequential"], found["published"]
    assert ours is not None
    assert sequential is not None
    assert published is not None
    cells = [
        f"{statistics.median(ratios[way]):6.2f} ({min(ratios[way]):.2f}-{max(ratios[way]):.2f})"
        for way in ("published", "sequential", "ours", "unsampled")
    ]
    joint = statistics.median(times["joint"])
    differences = (float((other - ours).abs().max()) for other in (sequential, published))
    print(f"{name:28} {joint:7.3f}s " + " ".join(f"{cell:>22}" for cell in cells), *(f"{d:9.1e}" for d in differences))


def main(wanted: Sequence[str]) -> None:
    """Print the table."""
    warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; times in joint steps, median (least-most)")
    heads = ("published", "sequential", "ours", "unsampled")
    print(f"{'case':28} {'joint':>8} " + " ".join(f"{head:>22}" for head in heads), f"{'|d seq|':>9} {'|d pub|':>9}")
    for name, case in CASES.items():
        if not wanted or any(word in name for word in wanted):
            measure(name, case)


if __name__ == "__main__":
    main(sys.argv[1:])
