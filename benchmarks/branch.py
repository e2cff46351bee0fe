"""What a branched network costs: `python -m benchmarks.branch [--rounds 9]`.

The seconds of a training step (forward, backward) of the branched network, relative to a step of the network that was
not split: by either engine, and for one full pass of the branched network for each task without any engine
(`T passes`). All ways run in turn in every round; a figure is the median over the rounds of the ratio in one round.
"operations" are the floating-point operations that are necessary (the trunk once, and every stream with its own head
alone) relative to those of the network that was not split: a bound where they are what takes the time.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import recon_cli
from recon_cli.artifacts.manifest import Manifest
from recon_cli.branching.requests import SelectionRequest, SplitRequest
from recon_cli.branching.runtime.engines import EngineName
from recon_cli.branching.split import split_checkpoint
from recon_cli.checkpoints.saving import save_state_dict
from recon_cli.zoo import resnet18

Step = Callable[[], None]
ENGINES: tuple[EngineName, ...] = ("graph", "calls", "passes")


class Transformer(nn.Module):
    """An encoder of six layers, and a head for each task."""

    def __init__(self, tasks: tuple[str, ...], width: int = 256) -> None:
        super().__init__()
        self.embed = nn.Linear(32, width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
        self.heads = nn.ModuleDict({task: nn.Linear(width, 10) for task in tasks})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.encoder(self.embed(x)).mean(1)
        return {task: head(features) for task, head in self.heads.items()}


@dataclass(frozen=True)
class Network:
    """A network, its batch, and where it is split."""

    make: Callable[[tuple[str, ...]], nn.Module]
    batch: Callable[[], torch.Tensor]
    layers: Mapping[str, str]


NETWORKS = {
    "ResNet-18": Network(
        lambda tasks: resnet18(in_channels=3, classes=dict.fromkeys(tasks, 10)),
        lambda: torch.rand(16, 3, 32, 32),
        {"early": "conv1", "middle": "layer3.0.conv1", "late": "layer4.1.conv2"},
    ),
    "transformer": Network(
        Transformer,
        lambda: torch.rand(8, 64, 32),
        {"early": "embed", "middle": "encoder.layers.3.linear1", "late": "encoder.layers.5.linear2"},
    ),
}


def manifest_of(model: nn.Module, layer: str, tasks: tuple[str, ...]) -> Manifest:
    """The manifest of a split of one layer."""
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "model.safetensors", Path(folder) / "branched.safetensors"
        save_state_dict(model.state_dict(), source)
        request = SplitRequest(source, SelectionRequest(layers=(layer,)), None, tasks)
        split_checkpoint(request, output)
        return Manifest.read(Path(folder) / "branched.manifest.json")


def step_of(model: nn.Module, x: torch.Tensor) -> Step:
    """A step by the network as it is."""

    def step() -> None:
        model.zero_grad(set_to_none=True)
        torch.autograd.backward(torch.stack([value.square().mean() for value in model(x).values()]).sum())

    return step


def step_by_passes(model: recon_cli.BranchedModel, x: torch.Tensor) -> Step:
    """A step by one call for each task, each with a backward pass of its own."""

    def step() -> None:
        model.zero_grad(set_to_none=True)
        for task in model.task_names:
            torch.autograd.backward(model(x, tasks=[task])[task].square().mean())

    return step


def main() -> None:
    """Measure all networks, numbers of tasks and places."""
    parser = argparse.ArgumentParser(description="What a branched network costs.")
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    print(f"{'':34}" + "".join(f"{column:>12}" for column in ("operations", *ENGINES, "T passes")))
    for name, network in NETWORKS.items():
        for number in (2, 9):
            tasks = tuple(f"t{at}" for at in range(number))
            for where, layer in network.layers.items():
                torch.manual_seed(0)
                model, x = network.make(tasks), network.batch()
                manifest = manifest_of(model, layer, tasks)
                branched: dict[str, recon_cli.BranchedModel] = {
                    engine: recon_cli.branch(copy.deepcopy(model), manifest, engine) for engine in ENGINES
                }
                steps = {
                    "shared": step_of(model, x),
                    **{engine: step_of(network, x) for engine, network in branched.items()},
                    "T passes": step_by_passes(branched["passes"], x),
                }
                bound = recon_cli.branching_cost(model, manifest, x).ratio
                seconds: dict[str, list[float]] = {way: [] for way in steps}
                for at in range(rounds + 1):
                    for way, step in steps.items():
                        begun = time.perf_counter()
                        step()
                        if at:
                            seconds[way].append(time.perf_counter() - begun)
                ratios = {
                    way: statistics.median(a / b for a, b in zip(found, seconds["shared"], strict=True))
                    for way, found in seconds.items()
                }
                figures = [bound, *(ratios[way] for way in (*ENGINES, "T passes"))]
                row = "".join(f"{figure:12.2f}" for figure in figures)
                print(f"{name + ', T = ' + str(number) + ', ' + where:34}{row}", flush=True)


if __name__ == "__main__":
    main()
