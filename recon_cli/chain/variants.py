"""The networks that `recon run` trains: as they are, split by their conflicts, and the paper's controls."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from recon_cli.artifacts.method import Method, describe
from recon_cli.config.schema import RunSection

RECON = "recon"
_CONTROLS = {"rsl": "random_layers", "rsp": "random_parameters", "first-k": "first_k", "last-k": "last_k"}


@dataclass(frozen=True)
class Variant:
    """A way to split the network.

    :ivar name: of its files.
    :ivar selection: how the layers are chosen, as `recon split` takes it.
    """

    name: str
    selection: dict[str, Any]


def variants(section: RunSection) -> Iterator[Variant]:
    """The network split by its conflicts, then the controls, which split as many layers or parameters otherwise."""
    select = section.select.model_dump(exclude_defaults=True)
    yield Variant(RECON, select)
    how = {name: value for name, value in select.items() if name != "top_k"}
    for control in section.controls:
        is_random = control in ("rsl", "rsp")
        for draw in range(section.draws if is_random else 1):
            name = f"{control}-{draw}" if is_random and section.draws > 1 else control
            drawn = {"seed": draw} if is_random else {}
            yield Variant(name, {**how, _CONTROLS[control]: section.select.top_k, **drawn})


def slug(method: Method) -> str:
    """A method as a part of a folder's name."""
    return re.sub(r"[^a-z0-9.-]+", "-", describe(method).lower()).strip("-")
