"""Small networks of the kinds that people branch, each with two tasks or more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from recon_cli.zoo import small_resnet
from tests import networks

AB = ("a", "b")


@dataclass(frozen=True)
class Entry:
    """A network of the catalogue.

    :ivar inputs: what it is called with.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]]
    tasks: tuple[str, ...] = AB


def image(*shape: int) -> Callable[[], tuple[torch.Tensor, ...]]:
    return lambda: (torch.rand(*shape, dtype=torch.float64),)


def tokens(*shape: int) -> Callable[[], tuple[torch.Tensor, ...]]:
    return lambda: (torch.randint(0, 11, shape),)


class Heads(nn.Module):
    """A trunk, and a linear head for each task."""

    def __init__(self, trunk: nn.Module, width: int, tasks: tuple[str, ...] = AB) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleDict({task: nn.Linear(width, 2) for task in tasks})

    def forward(self, *inputs: Any) -> dict[str, torch.Tensor]:
        features = self.trunk(*inputs)
        return {task: head(features) for task, head in self.heads.items()}


class Bottleneck(nn.Module):
    def __init__(self, inside: int, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inside, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1), nn.BatchNorm2d(4 * width)
        self.down = nn.Conv2d(inside, 4 * width, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += self.down(x)
        return self.relu(out)


class InvertedResidual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(width, 3 * width, 1), nn.BatchNorm2d(3 * width), nn.ReLU6(inplace=True),
            nn.Conv2d(3 * width, 3 * width, 3, padding=1, groups=3 * width), nn.BatchNorm2d(3 * width),
            nn.ReLU6(inplace=True), nn.Conv2d(3 * width, width, 1), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x)


class UNet(nn.Module):
    """Skips, and an unpooling with the indices of a pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.up1, self.up2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.a, self.b = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 1, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        skip = F.relu(self.down1(x))
        pooled, where = F.max_pool2d(skip, 2, return_indices=True)
        deep = F.relu(self.down2(pooled))
        up = F.max_unpool2d(F.relu(self.up1(deep)), where, 2)
        joined = F.relu(self.up2(torch.cat([up, skip], 1)))
        return {"a": self.a(joined), "b": self.b(joined)}


class Experts(nn.Module):
    """MMoE: experts that all tasks share, and a gate for each task."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6)) for _ in range(3))
        self.gates = nn.ModuleDict({task: nn.Linear(4, 3) for task in AB})
        self.towers = nn.ModuleDict({task: nn.Linear(6, 1) for task in AB})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        found = torch.stack([expert(x) for expert in self.experts], 1)
        mixed = {task: torch.einsum("be,bef->bf", gate(x).softmax(1), found) for task, gate in self.gates.items()}
        return {task: self.towers[task](value) for task, value in mixed.items()}


class CrossStitch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 5)
        self.left, self.right = nn.Linear(5, 5), nn.Linear(5, 5)
        self.stitch = nn.Parameter(torch.tensor([[0.9, 0.1], [0.2, 0.8]]))
        self.a, self.b = nn.Linear(5, 1), nn.Linear(5, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.tanh(self.first(x))
        both = torch.stack([self.left(x), self.right(x)])
        one, two = torch.einsum("ij,jbf->ibf", self.stitch, both).unbind()
        return self.a(one), self.b(two)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 5)
        self.lstm = nn.LSTM(5, 6, num_layers=2, batch_first=True, bidirectional=True)
        self.gru = nn.GRUCell(12, 12)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        states, (last, _) = self.lstm(self.embed(words))
        return self.gru(states[:, -1], torch.cat([last[0], last[1]], -1))


class Vision(nn.Module):
    """A vision transformer with a learned class token and positions."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 4, stride=4)
        self.token, self.position = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.randn(1, 10, 8) / 10)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        return self.norm(self.encoder(x))[:, 0]


class DataDependent(nn.Module):
    """Loops and branches that depend on values; the streams of the tasks may take different ways."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.small, self.large = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for _ in range(3):
            x = self.small(x) + 0.3 if x.abs().mean().item() < 0.6 else torch.tanh(self.large(x))
        return x


class InPlace(nn.Module):
    """Writes into what it has computed wherever it can."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).mul_(0.5)
        x += self.down(x.mean((2, 3), keepdim=True)).clamp_(-1, 1)
        x.mul_(0.5).add_(self.second(x.mean((2, 3), keepdim=True)))
        out = torch.zeros(len(x), 6, dtype=x.dtype)
        out[:, :4] = x.mean((2, 3))
        out[:, 4:].fill_(0.5)
        return out


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.first = nn.Linear(4, 4)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return x


class Square(torch.autograd.Function):
    """A function of the user's own, with calls inside."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return torch.mul(x, x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * gradient


class OwnFunction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = Square.apply(self.first(x))
        return Square.apply(F.relu_(self.second(F.relu_(x))))


class Attentive(nn.Module):
    """Soft attention for each task over features that they share, as in MTAN."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.attention = nn.ModuleDict({task: nn.Conv2d(4, 4, 1) for task in AB})
        self.heads = nn.ModuleDict({task: nn.Conv2d(4, 2, 1) for task in AB})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        early = F.relu(self.bn1(self.conv1(x)))
        late = F.relu(self.bn2(self.conv2(early)))
        return {task: self.heads[task](torch.sigmoid(gate(early)) * late) for task, gate in self.attention.items()}


def bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=11, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = BertModel(config)

        def forward(self, words: torch.Tensor) -> torch.Tensor:
            return self.bert(input_ids=words).pooler_output

    return Heads(Pooled(), 8)


def sequential(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten())


CATALOGUE: dict[str, Entry] = {
    "basic blocks": Entry(small_resnet, image(4, 1, 16, 16), ("fashion", "mnist")),
    "bottlenecks": Entry(lambda: Heads(sequential(Bottleneck(1, 2), Bottleneck(8, 2)), 8), image(3, 1, 8, 8)),
    "inverted residuals": Entry(
        lambda: Heads(sequential(nn.Conv2d(1, 4, 3), InvertedResidual(4), InvertedResidual(4)), 4), image(3, 1, 8, 8)
    ),
    "skips and unpooling": Entry(UNet, image(2, 1, 8, 8)),
    "attention for each task": Entry(Attentive, image(3, 1, 6, 6)),
    "experts": Entry(Experts, image(5, 4)),
    "cross-stitch": Entry(CrossStitch, image(5, 4)),
    "recurrent": Entry(lambda: Heads(Recurrent(), 12), tokens(3, 5)),
    "transformer": Entry(
        lambda: Heads(nn.Sequential(
            nn.Embedding(11, 8), nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), nn.Flatten()
        ), 40), tokens(3, 5),
    ),
    "vision transformer": Entry(lambda: Heads(Vision(), 8), image(2, 1, 12, 12)),
    "bert": Entry(bert, tokens(2, 6)),
    "tied embeddings": Entry(networks.Tied, lambda: (torch.arange(5),), ("word", "kind")),
    "reused modules": Entry(networks.Reused, image(6, 4)),
    "decisions from data": Entry(lambda: Heads(DataDependent(), 4), image(5, 4)),
    "in place": Entry(lambda: Heads(InPlace(), 6), image(2, 1, 6, 6)),
    "checkpointing": Entry(lambda: Heads(Checkpointed(reentrant=False), 4), image(5, 4)),
    "reentrant checkpointing": Entry(lambda: Heads(Checkpointed(reentrant=True), 4), image(5, 4)),
    "an own function": Entry(lambda: Heads(OwnFunction(), 4), image(5, 4)),
    "a dataclass": Entry(networks.WithAttributes, image(3, 1, 12, 12), ("left", "right")),
    "a tuple": Entry(networks.Tuple, image(3, 1, 12, 12), ("left", "right")),
    "three tasks": Entry(
        lambda: Heads(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(inplace=True), nn.Linear(5, 5)), 5,
                      ("a", "b", "c")),
        image(6, 4), ("a", "b", "c"),
    ),
}  # fmt: skip
