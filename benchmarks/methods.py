"""What the update rules cost, as shares of a training step: `python -m benchmarks.methods`.

First, for 2, 9 and 40 tasks, the time that a rule takes to find its weights (for FAMO also to learn from new losses,
for GradDrop to combine the gradients of all shared parameters), relative to a joint step, forward and backward, of the
ResNet-18 of Multi-Fashion+MNIST on its batch. All of it runs on one thread, and all rules take turns with the step in
every round; a figure is the median over the rounds of a rule's time over the step's in the same round. What it costs to
get the gradients or their Gram matrix is not in it.

Then the time of whole steps, forward, backward passes and update, relative to a joint step: for 2 and 9 tasks, one rule
for each way to an update, on the same network. `--rounds 0` leaves the first part out, `--steps 0` the second.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from recon_cli.rules.registry import RULES, make_rule
from recon_cli.rules.rule import GradientRule, Observation, PenaltyRule, Rule, WeightRule
from recon_cli.updating.updates import Updates
from recon_cli.zoo.resnet import resnet18

TASKS = (2, 9, 40)
BATCH = (64, 1, 36, 36)
REPEATS = 5
"""How often a rule runs in a round: on gradients that change."""


def joint_step(tasks: int) -> Callable[[], None]:
    """A step of the network by the mean of its losses."""
    model = resnet18(in_channels=BATCH[1], classes={str(task): 10 for task in range(tasks)})
    x = torch.rand(BATCH)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        torch.autograd.backward(torch.stack([output.square().mean() for output in model(x).values()]).mean())

    return step


def use_of(rule: Rule[Any], tasks: int) -> Callable[[], None]:
    """What a step asks of a rule, on gradients that conflict in half of the pairs."""
    observations = []
    for _ in range(REPEATS):
        rows = torch.randn(tasks, 200, dtype=torch.float64) * torch.rand(tasks, 1, dtype=torch.float64)
        observations.append(Observation(torch.rand(tasks, dtype=torch.float64) + 0.1, rows @ rows.T))
    if isinstance(rule, GradientRule):
        parameters = resnet18(BATCH[1]).named_parameters()
        shared = sum(parameter.numel() for name, parameter in parameters if not name.startswith("heads."))
        gradients = torch.randn(tasks, shared)

        def combine() -> None:
            rule.combined(gradients, observations[0])

        return combine
    if isinstance(rule, PenaltyRule):

        def penalise() -> None:
            for seen in observations:
                rule.slopes(seen)

        return penalise
    assert isinstance(rule, WeightRule)

    def weigh() -> None:
        for seen in observations:
            rule.weights(seen)
            if "new losses" in rule.needs:
                rule.after_step(seen.losses)

    return weigh


def shares(tasks: int, rounds: int) -> tuple[float, dict[str, float]]:
    """The seconds of a joint step, and each rule's share of it."""
    torch.manual_seed(0)
    step = joint_step(tasks)
    uses = {name: use_of(make_rule(name, [str(task) for task in range(tasks)]), tasks) for name in RULES}
    times: dict[str, list[float]] = {name: [] for name in uses}
    steps = []
    for at in range(rounds + 1):
        taken = _seconds(step)
        for name, use in uses.items():
            calls = 1 if issubclass(RULES[name], GradientRule) else REPEATS
            spent = _seconds(use) / calls
            # The first round warms up.
            if at:
                times[name].append(spent / taken)
        if at:
            steps.append(taken)
    return statistics.median(steps), {name: statistics.median(found) for name, found in times.items()}


WAYS: dict[str, str | dict[str, Any]] = {
    "joint": "joint",
    "by the losses (rlw)": "rlw",
    "with a second forward pass (famo)": "famo",
    "by the Gram matrix (mgda)": "mgda",
    "by that of each layer (mgda)": {"name": "mgda", "per": "layer"},
    "by that of a feature (mgda)": {"name": "mgda", "feature": "fc"},
    "by the gradients (graddrop)": "graddrop",
    "by second derivatives (cosreg)": "cosreg",
}


def whole_steps(tasks: int, rounds: int) -> dict[str, float]:
    """The time of a step by each way, relative to one of plain PyTorch with the mean of the losses."""
    torch.manual_seed(0)
    names = [str(task) for task in range(tasks)]
    model = resnet18(in_channels=BATCH[1], classes=dict.fromkeys(names, 10))
    x = torch.rand(BATCH)

    def losses() -> dict[str, torch.Tensor]:
        return {task: output.square().mean() for task, output in model(x).items()}

    def plain() -> None:
        model.zero_grad(set_to_none=True)
        torch.autograd.backward(torch.stack(list(losses().values())).mean())

    def by(updates: Updates) -> Callable[[], None]:
        def step() -> None:
            model.zero_grad(set_to_none=True)
            updates.backward(losses())
            updates.after_step(losses)

        return step

    ratios: dict[str, list[float]] = {way: [] for way in WAYS}
    for at in range(rounds + 1):
        taken = _seconds(plain)
        for way, method in WAYS.items():
            # Made anew, as what one notes in the forward pass costs the others.
            step = by(Updates(model, names, method))
            step()
            spent = _seconds(step)
            if at:
                ratios[way].append(spent / taken)
    return {way: statistics.median(found) for way, found in ratios.items()}


def _seconds(use: Callable[[], None]) -> float:
    begun = time.perf_counter()
    use()
    return time.perf_counter() - begun


def main() -> None:
    """Measure all rules."""
    parser = argparse.ArgumentParser(description="What the update rules cost.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=3, help="rounds of whole steps")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.rounds:
        show_rules(arguments.rounds)
    if arguments.steps:
        show_steps(arguments.steps)


def show_rules(rounds: int) -> None:
    """Print what finding the weights takes."""
    found = {tasks: shares(tasks, rounds) for tasks in TASKS}
    print(f"{'':14}" + "".join(f"{f'T = {tasks}':>10}" for tasks in TASKS))
    print(f"{'joint step':14}" + "".join(f"{1000 * found[tasks][0]:>7.0f} ms" for tasks in TASKS))
    for name in RULES:
        print(f"{name:14}" + "".join(f"{found[tasks][1][name]:>10.2%}" for tasks in TASKS))


def show_steps(rounds: int) -> None:
    """Print what whole steps take."""
    found = {tasks: whole_steps(tasks, rounds) for tasks in TASKS[:2]}
    print(f"\n{'whole steps':36}" + "".join(f"{f'T = {tasks}':>10}" for tasks in found))
    for way in WAYS:
        print(f"{way:36}" + "".join(f"{ratios[way]:>10.2f}" for ratios in found.values()))


if __name__ == "__main__":
    main()
