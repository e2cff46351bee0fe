"""Which layers the tasks of a network share, as far as its steps have shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from recon_cli.errors import ReconError
from recon_cli.gradients.surrogate import Layout
from recon_cli.layers.discovery import Layer
from recon_cli.updating.groups import Groups


class SharedLayers:
    """The layers that the losses of two tasks or more have reached, if not in the same step.

    :param layers: all layers of the network, L of them.
    :param tasks: the number of tasks, T.
    :param groups: the groups of the layers.
    :ivar parameters: those of all layers.
    """

    def __init__(self, layers: Sequence[Layer], tasks: int, groups: Groups) -> None:
        self.parameters = [parameter for layer in layers for parameter in layer.parameters.values()]
        self._layer_of = {id(p): number for number, layer in enumerate(layers) for p in layer.parameters.values()}
        self._groups = groups
        self._reached = torch.zeros(len(layers), tasks, dtype=torch.bool)

    def note(self, reached: torch.Tensor, present: Sequence[int]) -> None:
        """Learn from a step.

        :param reached: bool, [L, P]: whether the loss of each of the tasks that are present reaches each layer.
        :raises ReconError: if none reaches any.
        """
        if not reached.any():
            raise ReconError(
                "the losses reach none of the network's layers",
                "give the losses of the network that the method was made for, not of a copy, and train some of it",
            )
        self._reached[:, list(present)] |= reached

    def note_parameters(
        self, parameters: Sequence[torch.Tensor], reached: torch.Tensor, present: Sequence[int]
    ) -> None:
        """Learn from a step of which it is known what parameters it reaches.

        :param reached: bool, [P, N], for the N parameters.
        """
        of_layers = torch.zeros(len(self._reached), len(present), dtype=torch.bool)
        for parameter, column in zip(parameters, reached.T, strict=True):
            of_layers[self._layer_of[id(parameter)]] |= column
        self.note(of_layers, present)

    def note_layout(self, layout: Layout, present: Sequence[int]) -> None:
        """Learn from a step of which it is known what lies behind a shared representation: that is shared."""
        for parameter in layout.trunk:
            if id(parameter) in self._layer_of:
                self._reached[self._layer_of[id(parameter)]] = True
        for parameter, reaching in layout.before:
            if id(parameter) in self._layer_of:
                self._reached[self._layer_of[id(parameter)], [present[place] for place in reaching]] = True

    @property
    def is_shared(self) -> torch.Tensor:
        """Bool, [L]."""
        return self._reached.sum(1) >= 2

    def check_seen(self) -> None:
        """Refuse that a rule sees nothing of what it makes updates of.

        :raises ReconError: if none of the layers that it looks at is shared, but others are.
        """
        if self.is_shared.any() and not (self.is_shared & self._groups.looked_at).any():
            raise ReconError(
                "none of the layers that the method looks at is shared by two tasks",
                "name shared ones under `layers`, or leave it out",
            )

    @property
    def groups(self) -> set[int]:
        """The groups that have a shared layer."""
        return set(self._groups.of_layer[self.is_shared].tolist())

    def groups_of_parameters(self, *, looked_at: bool = False) -> dict[int, int]:
        """The group of each parameter of a shared layer, by the parameter's identity.

        :param looked_at: whether only those whose gradients the rules see are wanted.
        """
        seen = self.is_shared & self._groups.looked_at if looked_at else self.is_shared
        groups, shared = self._groups.of_layer.tolist(), seen.tolist()
        return {parameter: groups[layer] for parameter, layer in self._layer_of.items() if shared[layer]}

    def grams_of_groups(self, grams: torch.Tensor) -> torch.Tensor:
        """What the rule of each group sees, [G, P, P] on the CPU.

        :param grams: [L, P, P].
        """
        seen = (self.is_shared & self._groups.looked_at).to(grams.device)
        sums = grams.new_zeros(len(self._groups.names), *grams.shape[1:])
        return sums.index_add_(0, self._groups.of_layer.to(grams.device)[seen], grams[seen]).cpu()

    def state(self) -> dict[str, Any]:
        """What was learned, as plain data and tensors."""
        return {"reached": self._reached.clone()}

    def check(self, state: Mapping[str, Any]) -> None:
        """Refuse what others of another network have learned.

        :raises ReconError: if it is another network.
        """
        if len(state["reached"]) != len(self._reached):
            raise ReconError("the saved state is of another network: it has not as many layers")

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what others of the same network have learned."""
        self._reached.copy_(state["reached"])
