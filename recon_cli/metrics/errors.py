"""Mean absolute and relative errors, as of depths."""

from __future__ import annotations

import torch

from recon_cli.metrics.inputs import tensors_of_one_shape
from recon_cli.metrics.parameters import checked
from recon_cli.metrics.sums import Mean


class _ErrorMetric(Mean):
    """The mean of an error over all values whose label is finite and not `ignore`."""

    HIGHER_IS_BETTER = False

    @checked
    def __init__(self, ignore: float | None = 0.0) -> None:
        super().__init__()
        self.ignore = ignore

    def _valid(self, label: torch.Tensor) -> torch.Tensor:
        """Which labels count."""
        finite = label.isfinite()
        # Before the label is made float64, in which a float32 is no longer equal to the number it stands for.
        return finite if self.ignore is None else finite & (label != self.ignore)


class AbsError(_ErrorMetric):
    """The mean of |output - label| over all values of all batches, in the label's unit.

    Outputs and labels have the same shape. Labels that are not finite are left out.

    :param ignore: the label of what is not counted; None: every finite label counts.
    """

    def update(self, output: torch.Tensor, label: torch.Tensor) -> None:
        """Count a batch."""
        output, label = tensors_of_one_shape(output, label)
        self._add_values((output.double() - label.double()).abs(), self._valid(label))


class RelError(_ErrorMetric):
    """The mean of |output - label| / |label| over all values of all batches: a fraction, not a percentage.

    Outputs and labels have the same shape. Labels that are not finite, or zero, are left out.

    :param ignore: another label of what is not counted.
    """

    def update(self, output: torch.Tensor, label: torch.Tensor) -> None:
        """Count a batch."""
        output, label = tensors_of_one_shape(output, label)
        errors = (output.double() - label.double()).abs() / label.double().abs()
        self._add_values(errors, self._valid(label) & (label != 0))
