"""What the update rules cost, as shares of a training step: `python -m benchmarks.methods`.

For 2, 9 and 40 tasks, the time that a rule takes to find its weights (for FAMO also to learn from new losses, for
GradDrop to combine the gradients of all shared parameters), relative to a joint step, forward and backward, of the
ResNet-18 of Multi-Fashion+MNIST on its batch. All of it runs on one thread, and all rules take turns with the step in
every round; a figure is the median over the rounds of a rule's time over the step's in the same round. What it costs to
get the gradients or their Gram matrix is not in it: that is one more backward pass per further task, which
`python -m benchmarks.profile` measures.
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


def _seconds(use: Callable[[], None]) -> float:
    begun = time.perf_counter()
    use()
    return time.perf_counter() - begun


def main() -> None:
    """Measure all rules."""
    parser = argparse.ArgumentParser(description="What the update rules cost.")
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    found = {tasks: shares(tasks, rounds) for tasks in TASKS}
    print(f"{'':14}" + "".join(f"{f'T = {tasks}':>10}" for tasks in TASKS))
    print(f"{'joint step':14}" + "".join(f"{1000 * found[tasks][0]:>7.0f} ms" for tasks in TASKS))
    for name in RULES:
        print(f"{name:14}" + "".join(f"{found[tasks][1][name]:>10.2%}" for tasks in TASKS))


if __name__ == "__main__":
    main()
