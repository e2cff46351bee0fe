"""The methods of searching by their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from recon_cli.artifacts.search import SearchStage
from recon_cli.errors import ReconError, did_you_mean, listed, quoted
from recon_cli.search.bilevel import Stage
from recon_cli.search.branching import bmtas, ltb
from recon_cli.search.candidates import Candidates
from recon_cli.search.chain import Chain
from recon_cli.search.conal import conal
from recon_cli.search.conal_pro import conal_pro
from recon_cli.search.method import Found, Learn, Searching, SearchMethod


def _noticing(find: Callable[[Chain, Sequence[str], Learn], Found]) -> SearchMethod:
    """A method whose stages learn between paths, with conflict noticing."""

    def search(searching: Searching) -> Found:
        def learn(candidates: Candidates, looked_at: Sequence[int]) -> SearchStage:
            return searching.learn(Stage(searching.material, searching.chain, candidates, looked_at))

        return find(searching.chain, searching.tasks, learn)

    return SearchMethod(search, validates=True, samples=False)


METHODS: Mapping[str, SearchMethod] = {
    "conal": _noticing(conal),
    "conal-pro": _noticing(conal_pro),
    "bmtas": SearchMethod(bmtas, validates=True, samples=True),
    "ltb": SearchMethod(ltb, validates=False, samples=True),
}


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
