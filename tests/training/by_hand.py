"""The training that a config describes, as one would write it in plain torch."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

TASKS = ("left", "right")
Figures = dict[str, dict[str, float]]
EpochEnd = Callable[[float], None]


@dataclass
class ByHand:
    """A network and what its training came to."""

    model: nn.Module
    steps: list[dict[str, float]] = field(default_factory=list)
    epochs: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[Figures] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)


def seed_all(seed: int) -> None:
    random.seed(seed)
    torch.manual_seed(seed)
    numpy.random.seed(seed)


def groups_of(batches: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while group := list(islice(batches, size)):
        yield group


def train_by_hand(
    make: Callable[[], nn.Module],
    data: Dataset,
    *,
    epochs: int,
    optimizer: Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer],
    validation: Dataset | None = None,
    per_step: Callable[[torch.optim.Optimizer], Any] | None = None,
    per_epoch: Callable[[torch.optim.Optimizer], Any] | None = None,
    follows: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.ReduceLROnPlateau] | None = None,
    clip_norm: float | None = None,
    accumulate: int = 1,
    autocast: torch.dtype | None = None,
    weights: Mapping[str, float] | None = None,
    seed: int = 0,
    batch_size: int = 8,
) -> ByHand:
    """Train on the weighted sum of the losses, by default their mean."""
    weights = {task: 1 / len(TASKS) for task in TASKS} if weights is None else weights
    seed_all(seed)
    model = make()
    loader = DataLoader(
        data, batch_size=batch_size, shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(seed)
    )
    mover = optimizer([parameter for parameter in model.parameters() if parameter.requires_grad])
    step_schedule = per_step and per_step(mover)
    epoch_schedule = per_epoch and per_epoch(mover)
    plateau = follows and follows(mover)
    found = ByHand(model)
    for _ in range(epochs):
        seen: list[dict[str, float]] = []
        for group in groups_of(iter(loader), accumulate):
            mover.zero_grad()
            of_group = []
            for images, labels in group:
                with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
                    outputs = model(images)
                    losses = {task: F.cross_entropy(outputs[task], labels[task]) for task in weights}
                sum(weights[task] * loss / len(group) for task, loss in losses.items()).backward()
                of_group.append({task: float(loss.detach()) for task, loss in losses.items()})
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
            mover.step()
            if step_schedule:
                step_schedule.step()
            found.steps.append(mean_of(of_group))
            found.rates.append(mover.param_groups[0]["lr"])
            seen += of_group
        found.epochs.append(mean_of(seen))
        value = sum(found.epochs[-1].values()) / len(weights)
        if validation is not None:
            figures = evaluate(model, validation, batch_size, autocast, tuple(weights))
            found.evaluations.append(figures)
            value = sum(of_task["loss"] for of_task in figures.values()) / len(weights)
        if epoch_schedule:
            epoch_schedule.step()
        if plateau:
            plateau.step(value)
    return found


def mean_of(losses: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {task: sum(each[task] for each in losses) / len(losses) for task in losses[0]}


def evaluate(
    model: nn.Module, data: Dataset, batch_size: int, autocast: torch.dtype | None, tasks: Sequence[str] = TASKS
) -> Figures:
    """The loss per item, and how many of the items are classified right."""
    model.eval()
    sums = {task: {"loss": 0.0, "accuracy": 0.0} for task in tasks}
    with torch.no_grad():
        for images, labels in DataLoader(data, batch_size=batch_size):
            with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
                outputs = model(images)
                for task in tasks:
                    loss = F.cross_entropy(outputs[task], labels[task], reduction="none").double()
                    sums[task]["loss"] += float(loss.sum())
                    sums[task]["accuracy"] += float((outputs[task].argmax(1) == labels[task]).sum())
    model.train()
    return {task: {name: total / len(data) for name, total in of_task.items()} for task, of_task in sums.items()}
