"""The trunk as a chain of modules: found by data flow, or given; and what is no chain."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from recon_cli import zoo
from recon_cli.errors import ReconError
from recon_cli.experiment.batches import Batch
from recon_cli.search.chain import Chain, find_chain

TASKS = ("a", "b")


class Net(nn.Module):
    """Something with two heads; what is between is for its subclasses to say."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, 5)
        self.out = nn.Linear(5, 5)
        self.heads = nn.ModuleDict({task: nn.Linear(5, 2) for task in TASKS})

    def head(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {task: head(x) for task, head in self.heads.items()}

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm(self.conv(x))).mean(dim=(2, 3))

    def forward(self, x: torch.Tensor) -> object:
        return self.head(F.relu(self.out(F.relu(self.fc(self.pooled(x))))))


class SizesOfTheInput(Net):
    """Heads and a layer on the way read the input's size, and the input itself."""

    def forward(self, x: torch.Tensor) -> object:
        y = F.relu(self.norm(self.conv(x)))
        y = self.fc(y.view(x.shape[0], 3, -1).mean(2)) + x.mean(dim=(1, 2, 3)).unsqueeze(1)
        return self.head(self.out(y) * x.size(0))


class Parts(Net):
    """A tuple of outputs; dropout, in-place operations, and a parameter of the network's own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((5,), 0.7))

    def forward(self, x: torch.Tensor) -> object:
        x = F.relu_(self.norm(self.conv(x))).mean(dim=(2, 3))
        x = F.dropout(self.fc(x) * self.scale, 0.4, training=self.training)
        x = self.out(x)
        x.relu_()
        return tuple(self.head(x).values())


class Loop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(2 if x.sum() > 0 else 1):
            x = self.linear(x)
        return x


class Looped(Net):
    """The code of one of its modules depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.out = Loop()


class SkipsOver(Net):
    def forward(self, x: torch.Tensor) -> object:
        x = self.pooled(x)
        return self.head(self.out(F.relu(self.fc(x))) + x.mean(1, keepdim=True))


class SharedBehind(Net):
    """One task has more of the trunk than the other, which parts before a layer that both use."""

    def forward(self, x: torch.Tensor) -> object:
        x = self.fc(self.pooled(x))
        return {"a": self.heads["a"](self.out(x)), "b": self.heads["b"](self.out(-x))}


class Twice(Net):
    def forward(self, x: torch.Tensor) -> object:
        return self.head(self.out(F.relu(self.out(self.fc(self.pooled(x))))))


class Tied(Net):
    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Linear(5, 5)
        self.again.weight = self.out.weight

    def forward(self, x: torch.Tensor) -> object:
        return self.head(self.again(F.relu(self.out(self.fc(self.pooled(x))))))


class AllAtOnce(Net):
    """Nowhere does the data flow through one tensor before the tasks part."""

    def forward(self, x: torch.Tensor) -> object:
        x = x.mean(dim=(1, 2, 3)).unsqueeze(1).repeat(1, 3)
        return {task: head(self.fc(x * (place + 1))) for place, (task, head) in enumerate(self.heads.items())}


class NothingShared(Net):
    def forward(self, x: torch.Tensor) -> object:
        return {"a": self.heads["a"](x[:, 0, :, 0]), "b": self.heads["b"](x[:, 0, :, 1])}


class OnValues(Net):
    def forward(self, x: torch.Tensor) -> object:
        return super().forward(x if x.sum() > 0 else -x)


class WritesToItsInput(Net):
    def forward(self, x: torch.Tensor) -> object:
        return super().forward(x.sub_(0.5))


def images(size: int = 6) -> torch.Tensor:
    return torch.rand(size, 1, 5, 5, generator=torch.Generator().manual_seed(1))


def taken_apart(chain: Chain, x: torch.Tensor) -> list[torch.Tensor]:
    feature = chain.before(None, x)
    for module in chain.modules:
        feature = module.part(feature, x)
    return [head(feature, x) for head in chain.heads.values()]


@pytest.mark.parametrize(
    ("make", "names", "layers"),
    [
        (Net, ("conv", "fc", "out"), (("conv", "norm"), ("fc",), ("out",))),
        (SizesOfTheInput, ("conv", "fc", "out"), (("conv", "norm"), ("fc",), ("out",))),
        (Parts, ("conv", "fc", "scale", "out"), (("conv", "norm"), ("fc",), ("scale",), ("out",))),
        (Looped, ("conv", "fc", "out.linear"), (("conv", "norm"), ("fc",), ("out.linear",))),
    ],
)
def test_a_chain_is_found_and_computes_what_the_network_does(make, names, layers):
    torch.manual_seed(0)
    model = make()
    before = copy.deepcopy(model.state_dict())
    chain = find_chain(model, TASKS, Batch(images(), None))
    assert chain.names == names
    assert tuple(tuple(layer.name for layer in module.layers) for module in chain.modules) == layers
    # Finding it leaves the running statistics as they are.
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    # Of another batch size as well.
    for size in (6, 4):
        expected = copy.deepcopy(model)
        torch.manual_seed(3)
        outputs = expected(images(size))
        torch.manual_seed(3)
        found = taken_apart(chain, images(size))
        for mine, theirs in zip(found, outputs.values() if isinstance(outputs, dict) else outputs, strict=True):
            assert torch.equal(mine, theirs)


def test_chains_of_the_papers_networks():
    resnet = find_chain(zoo.resnet18(width=4), ("fashion", "mnist"), Batch(torch.rand(4, 1, 36, 36), None))
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    assert resnet.names == ("conv1", *blocks, "fc")
    assert sum(len(module.layers) for module in resnet.modules) == 41
    mlp = find_chain(zoo.census_mlp(), ("income", "marital", "education"), Batch(torch.rand(4, 486), None))
    assert mlp.names == ("fc1", "fc2")
    assert sum(module.size for module in mlp.modules) == 130_560


def test_a_given_module_reaches_up_to_the_next_and_what_is_before_the_first_stays_shared():
    model = zoo.small_resnet()
    x = torch.rand(4, 1, 36, 36)
    chain = find_chain(model, ("fashion", "mnist"), Batch(x, None), ["layer1", "fc"])
    assert chain.names == ("layer1", "fc")
    assert {layer.name.split(".")[0] for layer in chain.modules[0].layers} == {"layer1", "layer2", "layer3"}
    assert {key.split(".")[0] for key in chain.before.state_dict()} == {"conv1", "bn1"}
    model.eval()
    assert all(torch.equal(a, b) for a, b in zip(taken_apart(chain, x), model(x).values(), strict=True))


@pytest.mark.parametrize(
    ("make", "names", "words"),
    [
        (SharedBehind, None, ["tasks share `out`", "behind `fc`"]),
        (Twice, None, ["weights of `out` are used at two places"]),
        (Tied, None, ["weights of `out` are used at two places"]),
        (AllAtOnce, None, ["tasks share `fc`"]),
        (NothingShared, None, ["nowhere does all data flow through one tensor"]),
        (OnValues, None, ["code cannot be followed", "control flow"]),
        (WritesToItsInput, None, ["changes its input in place"]),
        (Net, ["conv", "fcc"], ["`search.chain`", "no module `fcc`", "did you mean `fc`?"]),
        (Net, ["fc", "conv"], ["`conv` does not come behind `fc`"]),
        (Net, ["fc", "heads.a"], ["`heads.a` is not in the part", "lies behind `out`"]),
        (SkipsOver, ["fc", "out"], ["`out` does not begin where all data flows through one tensor", "`fc` begins"]),
    ],
)
def test_what_is_no_chain_is_refused(make, names, words):
    if make is SkipsOver:
        # A module that is skipped over goes with the one before.
        assert find_chain(make(), TASKS, Batch(images(), None)).names == ("conv", "fc")
    with pytest.raises(ReconError) as raised:
        find_chain(make(), TASKS, Batch(images(), None), names)
    text = f"{raised.value.message} {raised.value.hint}"
    for word in words:
        assert word in text, text
