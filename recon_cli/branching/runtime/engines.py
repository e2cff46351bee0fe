"""The ways in which a branched network can be run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from recon_cli.errors import ReconError, listed, quoted
from recon_cli.network_states import Before, Place

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


class SingleMoves:
    """Lets only the first pass move a buffer that is in common to passes which are run one by one, as one stream would.

    :param before: how it was before the first of them.
    """

    def __init__(self, before: Before) -> None:
        self._before = before
        self._moved: list[tuple[Place, torch.Tensor | None]] = []

    @contextmanager
    def one_pass(self) -> Iterator[None]:
        """The next pass: it finds the buffers as the first one did; what it makes of those moved before is dropped."""
        stand_ins = {id(value): value.clone() for _, value in self._moved if value is not None}
        for place, value in self._moved:
            place._replace(buffer=stand_ins.get(id(value))).fill()
        try:
            yield
        finally:
            for place, _ in self._moved:
                place.fill()
        known = {(id(place.registry), place.name) for place, _ in self._moved}
        changed = self._before.changed()
        self._moved += [(place, value) for place, value in changed if (id(place.registry), place.name) not in known]
