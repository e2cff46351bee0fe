"""The output and the label that a metric is given, as it can count them."""

from __future__ import annotations

import torch

from recon_cli.errors import ReconError, quoted


def tensors(output: object, label: object) -> tuple[torch.Tensor, torch.Tensor]:
    """The two on the output's device, with nothing recorded for gradients.

    :raises ReconError: if one of them is no tensor.
    """
    for what, value in (("output", output), ("label", label)):
        if not isinstance(value, torch.Tensor):
            raise ReconError(f"the {what} is of type {quoted(type(value).__name__)}; a metric counts tensors")
    assert isinstance(output, torch.Tensor) and isinstance(label, torch.Tensor)
    return output.detach(), label.detach().to(output.device)


def tensors_of_one_shape(output: object, label: object) -> tuple[torch.Tensor, torch.Tensor]:
    """The same, of a label that holds one value for each of the output.

    :raises ReconError: if one of them is no tensor, or their shapes differ.
    """
    output, label = tensors(output, label)
    if output.shape != label.shape:
        raise ReconError(
            f"the output is of shape {tuple(output.shape)} and the label of shape {tuple(label.shape)}; "
            f"this metric needs two of the same shape"
        )
    return output, label
