"""Metrics of other libraries, and functions, as metrics of Recon."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, Protocol, runtime_checkable

import torch

from recon_cli.errors import ReconError, quoted
from recon_cli.experiment.ranks import Ranks
from recon_cli.experiment.targets import user_code
from recon_cli.metrics.inputs import tensors
from recon_cli.metrics.metric import Metric
from recon_cli.metrics.sums import Mean


@runtime_checkable
class Accumulating(Protocol):
    """What a foreign metric has to have; those of torchmetrics do."""

    def update(self, output: torch.Tensor, label: torch.Tensor, /) -> object:
        """Count a batch."""

    def compute(self) -> object:
        """The value, a number or a tensor with one element."""


class ForeignMetric(Metric):
    """A metric object of another library.

    It has no state to merge: one that several ranks update has to come together in its own `compute`, which all of them
    call, as those of torchmetrics do.

    :param metric: it.
    :param target: what it is called in messages.
    """

    def __init__(self, metric: Accumulating, target: str, *, higher_is_better: bool) -> None:
        self.HIGHER_IS_BETTER = higher_is_better
        self._metric = metric
        self._what = f"the metric {quoted(target)}"
        self._device: torch.device | None = None

    def update(self, output: torch.Tensor, label: torch.Tensor) -> None:
        """Count a batch.

        :raises ReconError: if that fails.
        """
        output, label = tensors(output, label)
        with user_code(self._what), torch.no_grad():
            if isinstance(self._metric, torch.nn.Module) and self._device != output.device:
                self._metric.to(output.device)
            self._device = output.device
            self._metric.update(output, label)

    def compute(self) -> float:
        """The value.

        :raises ReconError: if that fails, or gives something else than one number.
        """
        # With other ranks, those that have counted something wait for this one.
        if self._device is None and Ranks.current().size == 1:
            return float("nan")
        with user_code(self._what), torch.no_grad():
            value = self._metric.compute()
        return float(_one_number(value, self._what))

    def state(self) -> dict[str, torch.Tensor]:
        """Nothing."""
        return {}

    def merge(self, states: Sequence[Mapping[str, torch.Tensor]]) -> None:
        """Do nothing: `compute` asks the other ranks by itself."""


class FunctionMetric(Mean):
    """The mean of a function over all batches, each of which counts as many times as its label has elements.

    :param function: called as function(output, label, **kwargs), and returns a number or a tensor with one element.
    :param target: what it is called in messages.
    """

    def __init__(
        self, function: Callable[..., object], kwargs: Mapping[str, Any], target: str, *, higher_is_better: bool
    ) -> None:
        super().__init__()
        self.HIGHER_IS_BETTER = higher_is_better
        self._function = function
        self._kwargs = dict(kwargs)
        self._what = f"the metric {quoted(target)}"

    def update(self, output: torch.Tensor, label: torch.Tensor) -> None:
        """Count a batch.

        :raises ReconError: if the function fails, or gives something else than one number.
        """
        output, label = tensors(output, label)
        # Of nothing, most functions are NaN.
        if not label.numel():
            return
        with user_code(self._what), torch.no_grad():
            value = self._function(output, label, **self._kwargs)
        items = label.numel()
        self._add(total=_one_number(value, self._what) * items, number=torch.tensor(items))


def _one_number(value: object, what: str) -> torch.Tensor:
    """A value as a scalar in float64.

    :raises ReconError: if it is neither a number nor a tensor with one element.
    """
    if isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_complex():
        return value.detach().double().reshape(())
    if isinstance(value, Real):
        return torch.tensor(float(value), dtype=torch.float64)
    found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
    raise ReconError(f"{what} gives {quoted(found)}; a number or a tensor with one element was expected")
