"""The class that an output means and the one that its label names."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from recon_cli.errors import ReconError, counted
from recon_cli.metrics.inputs import tensors


@dataclass(frozen=True)
class Classified:
    """A batch as classes; all tensors but `outside` are of the label's shape.

    :ivar classes: how many there are; two where the output is a logit of the second.
    :ivar predicted: int64; `classes`, which is none of them, where the output holds NaN.
    :ivar label: int64; anything where it is not counted.
    :ivar valid: which labels count.
    :ivar outside: how many labels do not, though they are not ignored.
    """

    classes: int
    predicted: torch.Tensor
    label: torch.Tensor
    valid: torch.Tensor
    outside: torch.Tensor


def classify(output: object, label: object, ignore: int | None) -> Classified:
    """Read an output and its label as classes.

    :param output: [N, C, ...], a number for each of the C classes, of which the highest is meant; or of the label's
        shape, logits of class 1 against class 0.
    :param label: [N, ...], whole numbers from 0 to C - 1 in any type.
    :param ignore: the label of what is not counted.
    :raises ReconError: if these are not their shapes; on a CPU also if a label is outside.
    """
    output, label = tensors(output, label)
    if output.shape == label.shape:
        classes = 2
        # A NaN is not above zero, and means class 0 no more than class 1.
        predicted = torch.where(output.isnan(), classes, (output > 0).long())
    elif output.dim() > 1 and (output.shape[0], *output.shape[2:]) == label.shape:
        classes = output.shape[1]
        if classes < 2:
            raise ReconError(
                f"the output of shape {tuple(output.shape)} has {counted(classes, 'class')} in its second dimension",
                "give logits of two classes without that dimension, in the shape of the label",
            )
        highest, predicted = output.max(1)
        predicted = predicted.masked_fill(highest.isnan(), classes)
    else:
        raise ReconError(
            f"the output is of shape {tuple(output.shape)} and the label of shape {tuple(label.shape)}; "
            f"[N, C, ...] and [N, ...], or logits of the label's shape were expected"
        )
    whole = label.long()
    exact = whole == label
    named = exact & (whole >= 0) & (whole < classes)
    # Compared as int64: a label of another type may not be able to hold what is ignored.
    ignored = torch.zeros_like(exact) if ignore is None else exact & (whole == ignore)
    outside = (~named & ~ignored).sum()
    if outside.device.type == "cpu":
        refuse_outside(outside)
    return Classified(classes, predicted, whole, named & ~ignored, outside)


def refuse_outside(outside: torch.Tensor) -> None:
    """Refuse labels that name no class.

    :param outside: how many there are.
    :raises ReconError: if that is not zero.
    """
    number = int(outside)
    if number:
        raise ReconError(
            f"the labels name no class of the output in {counted(number, 'place')}; "
            "classes are whole numbers, counted from 0",
            "`ignore` names the label of what is not to be counted; values are measured by `abs_error` and the like",
        )
