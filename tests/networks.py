"""Small networks and data, also as targets of configs."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset


class TwoTasks(nn.Module):
    """A trunk with every common kind of layer, and a head for each of two tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.body = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6))
        self.heads = nn.ModuleDict({"left": nn.Linear(6, 3), "right": nn.Linear(6, 3)})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.body(F.relu(self.norm(self.conv(x))).mean(dim=(2, 3)))
        return {task: head(features) for task, head in self.heads.items()}


def two_tasks() -> nn.Module:
    return TwoTasks()


class WithoutNorm(TwoTasks):
    """The same without statistics of the batch; slow on request, so that it can be interrupted."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        time.sleep(float(os.environ.get("RECON_TEST_SLOW", "0")))
        return super().forward(x)


def without_norm() -> nn.Module:
    return WithoutNorm()


class TwoTaskData(Dataset):
    def __init__(self, size: int = 40) -> None:
        generator = torch.Generator().manual_seed(7)
        self.images = torch.rand(size, 1, 5, 5, generator=generator)
        self.left = torch.randint(3, (size,), generator=generator)
        self.right = torch.randint(3, (size,), generator=generator)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return self.images[index], {"left": self.left[index], "right": self.right[index]}


def two_task_data(size: int = 40) -> TwoTaskData:
    return TwoTaskData(size)


def generator_of_batches(number: int = 3) -> Iterator[object]:
    data = TwoTaskData()
    for start in range(number):
        yield data.images[start : start + 8], (data.left[start : start + 8], data.right[start : start + 8])


def list_of_mappings() -> list[object]:
    data = TwoTaskData()
    return [{"image": data.images[:8], "left": data.left[:8], "right": data.right[:8]}]


def list_of_tables() -> list[object]:
    data = TwoTaskData()
    return [(data.images[:8], torch.stack([data.left[:8], data.right[:8]], dim=1))]


def list_of_triples() -> list[object]:
    data = TwoTaskData()
    return [(data.images[:8], data.left[:8], data.right[:8])]


def nothing() -> list[object]:
    return []


def not_a_module() -> str:
    return "a network"


def failing(reason: str = "no weights today") -> nn.Module:
    raise OSError(reason)


class Tuple(TwoTasks):
    def forward(self, x):
        return tuple(super().forward(x).values())


@dataclass(frozen=True)
class Answer:
    left: torch.Tensor
    right: torch.Tensor
    note: str = "kept"


class WithAttributes(TwoTasks):
    def forward(self, x):
        return Answer(**super().forward(x))


class OneTensor(TwoTasks):
    def forward(self, x):
        return super().forward(x)["left"]


class Unshared(nn.Module):
    """Two networks that share nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(25, 3), nn.Linear(25, 3)

    def forward(self, x):
        return {"left": self.left(x.flatten(1)), "right": self.right(x.flatten(1))}


class Frozen(TwoTasks):
    """A network whose convolution is not trained, and that has a layer which nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.conv.requires_grad_(False)
        self.spare = nn.Linear(2, 2)


class ThreeTasks(nn.Module):
    """Three tasks in float64; `absent` says what the output of a task without labels is: there, None or left out."""

    def __init__(self, absent: str = "there") -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh())
        self.heads = nn.ModuleDict({task: nn.Linear(5, 3) for task in "abc"})
        self.absent = absent
        self.double()

    def forward(self, x, tasks):
        x = self.trunk(x)
        there = {task: head(x) for task, head in self.heads.items() if task in tasks or self.absent == "there"}
        return {task: there.get(task) for task in "abc"} if self.absent == "none" else there


class WithoutOutput(ThreeTasks):
    """A network that forgets a task."""

    def forward(self, x, tasks):
        return {task: output for task, output in super().forward(x, tasks).items() if task != "c"}


class UnsharedThree(ThreeTasks):
    """Three networks that share nothing."""

    def __init__(self) -> None:
        super().__init__()
        del self.trunk
        self.heads = nn.ModuleDict({task: nn.Linear(4, 3).double() for task in "abc"})

    def forward(self, x, tasks):
        return {task: head(x) for task, head in self.heads.items()}


PRESENT = ("abc", "ac", "b", "bc", "ab", "c", "abc")
"""The tasks that have labels in each of the partial batches."""


def partial_batches(present: Sequence[str] = PRESENT, *, keys: bool = True) -> list[object]:
    """Batches in which some tasks have no label: their key is missing, or with `keys` it holds None."""
    generator = torch.Generator().manual_seed(2)
    batches = []
    for tasks in present:
        x = torch.randn(6, 4, generator=generator, dtype=torch.float64)
        labels = {task: torch.randint(3, (6,), generator=generator) for task in "abc"}
        shown = {task: label if task in tasks else None for task, label in labels.items()}
        targets = {task: label for task, label in shown.items() if keys or label is not None}
        batches.append(({"x": x, "tasks": tasks}, targets))
    return batches


class Tied(nn.Module):
    """An embedding whose table is also the weight of the decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.mix = nn.Linear(4, 4)
        self.decode = nn.Linear(4, 5)
        self.decode.weight = self.embed.weight
        self.other = nn.Linear(4, 2)

    def forward(self, tokens):
        x = torch.tanh(self.mix(self.embed(tokens)))
        return {"word": self.decode(x), "kind": self.other(x)}


class Attention(nn.Module):
    """A transformer with parameters at its root, and in a module that has layers inside."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(4, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.one, self.two = nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x):
        x = self.block(x + self.position).mean(1)
        return {"one": self.one(x), "two": self.two(x)}


class Reused(nn.Module):
    """A layer that is called twice, under two names, and in-place operations."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.norm = nn.BatchNorm1d(4)
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
        self.order = [self.inner, self.norm]
        self.a, self.b = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x):
        x = self.again(self.first(x).relu_())
        for step in self.order:
            x = step(x)
        return self.a(x), self.b(x)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(3, 4, batch_first=True)
        self.scale = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        self.a, self.b = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x):
        x = self.scale(self.rnn(x)[0][:, -1])
        return {"a": self.a(x), "b": self.b(x)}


def explode_loss(output, target, *, after: int = 2):
    """Cross-entropy that becomes infinite after some calls."""
    explode_loss.calls += 1
    loss = F.cross_entropy(output, target)
    return loss / 0 if explode_loss.calls > after else loss


explode_loss.calls = 0


class Restless(nn.Module):
    """A network whose steps depend on dropout, batch statistics, and a buffer that is no part of its state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.body = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, 6))
        self.heads = nn.ModuleDict({"left": nn.Linear(6, 3), "right": nn.Linear(6, 3)})
        self.register_buffer("average", torch.zeros(6), persistent=False)
        # Set by the first batch.
        self.register_buffer("scale", None)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.body(F.relu(self.norm(self.conv(x))).mean(dim=(2, 3)))
        if self.scale is None:
            self.scale = features.detach().std() + 1
        self.average = 0.9 * self.average + 0.1 * features.detach().mean(0)
        return {task: head((features - self.average) / self.scale) for task, head in self.heads.items()}


class Augmented(TwoTaskData):
    """Images with noise from every random number generator."""

    def __getitem__(self, index):
        image, labels = super().__getitem__(index)
        return image + torch.randn(1, 5, 5) + random.random() + numpy.random.rand(), labels


class Noisy(TwoTaskData):
    """Images with noise from PyTorch's generator alone."""

    def __getitem__(self, index):
        image, labels = super().__getitem__(index)
        return image + torch.randn(1, 5, 5), labels


class Breaking:
    """An iterable that cannot be gone through."""

    def __iter__(self):
        raise ValueError("a hole")


class Shuffled:
    """An iterable that shuffles its batches anew with every pass."""

    def __iter__(self):
        data = TwoTaskData()
        starts = list(range(0, 32, 4))
        random.shuffle(starts)
        for start in starts:
            part = slice(start, start + 8)
            yield data.images[part], {"left": data.left[part], "right": data.right[part]}


def own_loader():
    """A loader of the user's, shuffled by the global generator."""
    return torch.utils.data.DataLoader(Augmented(), batch_size=8, shuffle=True)


def signal_loss(output, target, *, at: int, number: int):
    """Cross-entropy; its call number `at` sends a signal to its own process."""
    signal_loss.calls += 1
    if signal_loss.calls == at:
        os.kill(os.getpid(), number)
    return F.cross_entropy(output, target)


signal_loss.calls = 0


def slow_loss(output, target, *, seconds: float = 0.004):
    """Cross-entropy that takes its time, so that a process can be stopped on the way."""
    time.sleep(seconds)
    return F.cross_entropy(output, target)


def per_item_loss(output, target):
    return F.cross_entropy(output, target, reduction="none")


def constant_loss(output, target):
    return torch.tensor(1.0)


def nothing_to_learn(output, target):
    """A loss whose gradient is zero."""
    return 0 * output.sum() + 1.0
