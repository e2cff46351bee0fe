"""Whether the engine's cost model picks the faster route: `python -m benchmarks.routes`.

For one layer at a time, of the shapes that networks have, the backward part of a measured step by either route, in
turn, several rounds; a figure is the median over the rounds of the time over the outputs relative to that by the
gradients of the same round. "by operations" is what the cost model expects of the products alone; the route over the
outputs is taken where that is below the engine's margin.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from recon_cli.gradients import engine as engine_module
from recon_cli.gradients.engine import GramEngine
from recon_cli.gradients.routes.by_output import ByOutput, Call
from recon_cli.layers.discovery import discover_layers

ROUNDS = 9


@dataclass(frozen=True)
class Case:
    """A layer, its input, and the numbers of tasks that it is tried with."""

    layer: Callable[[], nn.Module]
    batch: Callable[[], torch.Tensor]
    tasks: Sequence[int] = (2, 9, 40)


CASES = {
    "Linear 1024x1024, 64 rows": Case(lambda: nn.Linear(1024, 1024), lambda: torch.randn(64, 1024)),
    "Linear 1024x1024, 512 rows": Case(lambda: nn.Linear(1024, 1024), lambda: torch.randn(512, 1024)),
    "Linear 1024x1024, 1024 rows": Case(lambda: nn.Linear(1024, 1024), lambda: torch.randn(1024, 1024)),
    "Linear 256x1024, 1024 rows": Case(lambda: nn.Linear(256, 1024), lambda: torch.randn(1024, 256)),
    "Conv2d 512x512, 32 x 2x2": Case(lambda: nn.Conv2d(512, 512, 3, padding=1), lambda: torch.randn(32, 512, 2, 2)),
    "Conv2d 256x256, 32 x 4x4": Case(lambda: nn.Conv2d(256, 256, 3, padding=1), lambda: torch.randn(32, 256, 4, 4)),
    "Conv2d 256x256, 32 x 8x8": Case(lambda: nn.Conv2d(256, 256, 3, padding=1), lambda: torch.randn(32, 256, 8, 8)),
    "Conv2d 128x128, 32 x 8x8": Case(lambda: nn.Conv2d(128, 128, 3, padding=1), lambda: torch.randn(32, 128, 8, 8)),
    "Conv1d 256x256, 16 x 64": Case(lambda: nn.Conv1d(256, 256, 3, padding=1), lambda: torch.randn(16, 256, 64)),
    "Embedding 200,000x32, 16,384 tokens": Case(
        lambda: nn.Embedding(200_000, 32), lambda: torch.randint(200_000, (1024, 16)), (2, 9)
    ),
    "Embedding 2,000x32, 16,384 tokens": Case(
        lambda: nn.Embedding(2_000, 32), lambda: torch.randint(2_000, (1024, 16)), (2, 9)
    ),
}


def seconds_by(
    margin: float, layer: nn.Module, x: torch.Tensor, engine: GramEngine, weights: Sequence[torch.Tensor]
) -> float:
    """The seconds of a measured step with one loss for each of the weights of the layer's outputs."""
    before = engine_module._MARGIN
    engine_module._MARGIN = margin
    try:
        with engine.watching():
            output = layer(x)
        losses = [(output * weight).sum() for weight in weights]
        start = time.perf_counter()
        engine.backward(losses, torch.full((len(losses),), 1 / len(losses)))
        return time.perf_counter() - start
    finally:
        engine_module._MARGIN = before


def expected(layer: nn.Module, x: torch.Tensor, tasks: int) -> float:
    """What the cost model says of the way over the outputs, relative to the gradients."""
    kind = next(kind for kind in engine_module._BY_OUTPUT if kind.accepts(layer))
    output = layer(x)
    assert issubclass(kind, ByOutput)
    call = Call(layer, x, 0, output.shape, output.dtype, torch.autograd.graph.get_gradient_edge(output))
    by_output, by_gradient = kind.costs([call], tasks)
    return by_output / by_gradient


def main() -> None:
    """Print the table."""
    warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; time over the outputs / by the gradients")
    print(f"{'layer':38} {'tasks':>5} {'measured':>20} {'by operations':>14} {'taken':>9}")
    for name, case in CASES.items():
        for tasks in case.tasks:
            torch.manual_seed(0)
            layer, x = case.layer(), case.batch()
            engine = GramEngine(layer, discover_layers(layer))
            weights = [torch.randn_like(layer(x)) for _ in range(tasks)]
            ratios = []
            for round_ in range(ROUNDS + 1):
                ratio = seconds_by(float("inf"), layer, x, engine, weights) / seconds_by(0.0, layer, x, engine, weights)
                if round_:
                    ratios.append(ratio)
            ratio, model = statistics.median(ratios), expected(layer, x, tasks)
            taken = "outputs" if model < engine_module._MARGIN else "gradients"
            wrong = "  slower" if (ratio < 1) != (taken == "outputs") else ""
            spread = f"{ratio:.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            print(f"{name:38} {tasks:5} {spread:>20} {model:14.2f} {taken:>9}{wrong}", flush=True)


if __name__ == "__main__":
    main()
