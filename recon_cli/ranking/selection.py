"""Which layers are split: the policies that choose from a ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from recon_cli.artifacts.ranking import Ranking
from recon_cli.errors import ReconError, number, quoted
from recon_cli.sizes import BYTE_UNITS, split_unit

_COUNTS = {"": 1, "k": 10**3, "m": 10**6}


def top_k(ranking: Ranking, k: int) -> tuple[str, ...]:
    """The first k layers of a ranking.

    :raises ReconError: if the ranking has not so many layers.
    """
    if not 1 <= k <= len(ranking.layers):
        raise ReconError(f"--top-k {k} is out of range: the ranking holds {len(ranking.layers)} layers")
    return ranking.names[:k]


def min_score(ranking: Ranking, score: float) -> tuple[str, ...]:
    """The layers whose score is at least `score`.

    :raises ReconError: if there is none.
    """
    chosen = tuple(layer.name for layer in ranking.layers if layer.score >= score)
    if not chosen:
        raise ReconError(
            f"no layer has a score of {number(score)} or more; the highest is {number(ranking.layers[0].score)}"
        )
    return chosen


@dataclass(frozen=True)
class Budget:
    """A limit to what the copies may add.

    :ivar amount: the limit, in the unit's own measure.
    :ivar unit: parameters, bytes, or percent of the model's parameters.
    """

    amount: float
    unit: Literal["parameters", "bytes", "percent"]

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read `20000` or `1.5M` (parameters), `600KB` or `2MiB` (bytes, units of 1024), or `5%`.

        :raises ReconError: if the text is none of these.
        """
        found = split_unit(text)
        if found:
            amount, unit = found
            if unit == "%":
                return cls(amount, "percent")
            if unit in _COUNTS:
                return cls(amount * _COUNTS[unit], "parameters")
            if unit in BYTE_UNITS:
                return cls(amount * BYTE_UNITS[unit], "bytes")
        raise ReconError(
            f"the budget {quoted(text)} is neither a number of parameters, nor of bytes, nor a percentage",
            "write it like `20000`, `1.5M`, `600KB`, `2MiB` or `5%`",
        )


@dataclass(frozen=True)
class Cost:
    """What splitting a layer adds to a model: its copies but one."""

    parameters: int
    bytes: int


def within_budget(
    ranking: Ranking, budget: Budget, costs: Mapping[str, Cost], model_parameters: int
) -> tuple[str, ...]:
    """Walk down the ranking and take every layer with conflicts whose copies still fit.

    :param costs: what each ranked layer adds.
    :param model_parameters: what a percentage is of.
    :raises ReconError: if not even one layer fits.
    """
    limit = budget.amount / 100 * model_parameters if budget.unit == "percent" else budget.amount
    chosen: list[str] = []
    spent = 0
    for layer in ranking.layers:
        cost = costs[layer.name]
        price = cost.bytes if budget.unit == "bytes" else cost.parameters
        if layer.score > 0 and spent + price <= limit:
            chosen.append(layer.name)
            spent += price
    if not chosen:
        raise ReconError("the budget is too small for any layer that has conflicts", "raise `--budget`")
    return tuple(chosen)


def explicit(names: Sequence[str]) -> tuple[str, ...]:
    """Layers that the user named.

    :raises ReconError: if one is named twice or is empty.
    """
    for name in names:
        if not name:
            raise ReconError("--layers holds an empty name", "separate the names by single commas")
        if names.count(name) > 1:
            raise ReconError(f"--layers names {quoted(name)} twice")
    return tuple(names)
