"""Somebody else's metrics, as targets."""

from __future__ import annotations

import torch

from recon_cli.metrics.accuracy import Accuracy


class Largest:
    """The largest output, times a factor."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor
        self.seen: list[float] = []

    def update(self, output: torch.Tensor, label: torch.Tensor) -> None:
        self.seen.append(float(output.max()))

    def compute(self) -> float:
        return self.factor * max(self.seen)


class Smallest(Largest):
    higher_is_better = False

    def compute(self) -> torch.Tensor:
        return torch.tensor([min(self.seen)])


class Odd(Largest):
    """Gives whatever it was made with."""

    higher_is_better = True

    def __init__(self, value: object) -> None:
        self.value = value

    def update(self, output: torch.Tensor, label: torch.Tensor) -> None:
        pass

    def compute(self) -> object:
        return self.value


class Failing(Odd):
    def __init__(self, where: str) -> None:
        self.where = where
        self.fail("init")

    def fail(self, where: str) -> None:
        if where == self.where:
            raise ValueError(f"no luck in {where}")

    def update(self, output: torch.Tensor, label: torch.Tensor) -> None:
        self.fail("update")

    def compute(self) -> float:
        self.fail("compute")
        return 0.0


class Devices(torch.nn.Module):
    """Counts the batches that come on the device of its own tensors, which is all that it can work with."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("tensor", torch.zeros(2))
        self.batches = 0

    def update(self, output: torch.Tensor, label: torch.Tensor) -> None:
        assert self.tensor.device == output.device == label.device
        self.batches += 1

    def compute(self) -> int:
        return self.batches


class Unfinished:
    """Cannot compute anything."""

    def update(self, output: torch.Tensor, label: torch.Tensor) -> None:
        pass


class Errors(Accuracy):
    """The share of what is wrong."""

    HIGHER_IS_BETTER = False

    def compute(self) -> float:
        return 1 - super().compute()


def mean_above(output: torch.Tensor, label: torch.Tensor, least: float = 0.0) -> torch.Tensor:
    assert not torch.is_grad_enabled()
    return (output > least).double().mean()


def gives(output: torch.Tensor, label: torch.Tensor, value: object) -> object:
    return value


def no_luck(output: torch.Tensor, label: torch.Tensor) -> float:
    raise ValueError("no luck")


mean_above.higher_is_better = True  # type: ignore[attr-defined]
