"""The methods of searching by their names."""

from __future__ import annotations

from collections.abc import Mapping

from recon_cli.errors import ReconError, did_you_mean, listed, quoted
from recon_cli.search.conal import conal
from recon_cli.search.conal_pro import conal_pro
from recon_cli.search.method import SearchMethod

METHODS: Mapping[str, SearchMethod] = {"conal": conal, "conal-pro": conal_pro}


def find_method(name: str) -> SearchMethod:
    """The method of a name.

    :raises ReconError: if there is none.
    """
    if name not in METHODS:
        raise ReconError(
            f"there is no method of searching {quoted(name)}",
            did_you_mean(name, METHODS) or f"there are {listed(METHODS)}",
        )
    return METHODS[name]
