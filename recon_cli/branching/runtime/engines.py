"""The ways in which a branched network can be run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from recon_cli.errors import ReconError, listed, quoted

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
