"""Which layers one rule is for: all of them, each by itself, or groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from recon_cli.artifacts.method import Method
from recon_cli.errors import ReconError, did_you_mean, listed, quoted
from recon_cli.layers.discovery import Layer


@dataclass(frozen=True)
class Groups:
    """The groups of layers that have a rule each.

    :ivar names: what each group is called in messages; None if there is but one.
    :ivar of_layer: int64, [L]: the group of each layer.
    :ivar looked_at: bool, [L]: whether the rule sees the gradients of the layer.
    """

    names: tuple[str | None, ...]
    of_layer: torch.Tensor
    looked_at: torch.Tensor

    @classmethod
    def of(cls, method: Method, layers: Sequence[Layer]) -> Groups:
        """Group layers as a method says.

        :raises ReconError: if a pattern is of no layer, or a layer is in two groups.
        """
        if not layers:
            raise ReconError("the network has no parameters, so there is nothing to update")
        _check_patterns([*method.layers, *(pattern for group in method.groups for pattern in group)], layers)
        looked_at = torch.tensor([layer.matches(method.layers) for layer in layers])
        if method.per == "layer":
            return cls(tuple(layer.name for layer in layers), torch.arange(len(layers)), looked_at)
        rest = len(method.groups)
        places = []
        for layer in layers:
            found = [number for number, group in enumerate(method.groups) if layer.matches(group)]
            if len(found) > 1:
                raise ReconError(f"the layer {quoted(layer.name)} is in groups {found[0] + 1} and {found[1] + 1}")
            places.append(found[0] if found else rest)
        names = tuple(listed(group) for group in method.groups)
        return cls((*names, "the rest" if names else None), torch.tensor(places), looked_at)


def _check_patterns(patterns: Sequence[str], layers: Sequence[Layer]) -> None:
    names = [layer.name for layer in layers]
    for pattern in patterns:
        if not any(layer.matches([pattern]) for layer in layers):
            raise ReconError(
                f"no layer of the network is of the pattern {quoted(pattern)} that the method names",
                did_you_mean(pattern, names) or f"its layers: {listed(names, 8)}",
            )
