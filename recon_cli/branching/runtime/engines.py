"""The ways in which a branched network can be run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn

from recon_cli.errors import ReconError, listed, quoted
from recon_cli.random_states import random_states, set_random_states

EngineName = Literal["auto", "graph", "calls", "passes"]
"""`graph` runs a fork of the network's graph; `calls` runs calls that are equal in several tasks' passes once; `passes`
runs every task's pass in full; `auto` is the first of them that the network allows."""


@dataclass(frozen=True)
class Engine:
    """How a branched network is run.

    :ivar reason: why in this way.
    """

    name: Literal["graph", "calls", "passes"]
    reason: str


_FIRST: Mapping[str, Engine] = {
    "auto": Engine("graph", "it is the fastest"),
    "graph": Engine("graph", "it was asked for"),
    "calls": Engine("calls", "it was asked for"),
    "passes": Engine("passes", "it was asked for"),
}


def first_engine(asked: str) -> Engine:
    """The engine that a network begins with.

    :raises ReconError: if there is none of that name.
    """
    if asked not in _FIRST:
        raise ReconError(f"there is no engine {quoted(asked)}", f"there are {listed(get_args(EngineName))}")
    return _FIRST[asked]


class Before:
    """What a run may change besides its outputs, as it was before the run: buffers, and the random numbers to come."""

    def __init__(self, model: nn.Module) -> None:
        # A network may put another tensor in a buffer's place.
        self._registries = [(module._buffers, dict(module._buffers)) for module in model.modules()]
        self._buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
        self._random = random_states()

    def restore(self) -> None:
        """Make it so again."""
        for registry, held in self._registries:
            registry.update(held)
        for buffer, value in self._buffers:
            # An earlier run may need it for its backward pass, and a write would be counted.
            if not torch.equal(buffer, value):
                buffer.data.copy_(value)
        set_random_states(self._random)
