"""Which layers are split: the policies that choose from a ranking, and the paper's controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from recon_cli.errors import ReconError, counted, number, quoted
from recon_cli.ranking.candidates import Candidate
from recon_cli.ranking.random_choice import matching_subset, shuffled
from recon_cli.sizes import BYTE_UNITS, split_unit

_COUNTS = {"": 1, "k": 10**3, "m": 10**6}


def top_k(candidates: Sequence[Candidate], k: int) -> tuple[Candidate, ...]:
    """The first k candidates of a ranking (the paper's choice).

    :param candidates: by falling score.
    :raises ReconError: if there are not so many.
    """
    _check_count("--top-k", k, candidates)
    return tuple(candidates[:k])


def first_k(candidates: Sequence[Candidate], k: int) -> tuple[Candidate, ...]:
    """The first k candidates of the network (a control of the paper's Table 11).

    :param candidates: in the network's order.
    :raises ReconError: if there are not so many.
    """
    _check_count("--first-k", k, candidates)
    return tuple(candidates[:k])


def last_k(candidates: Sequence[Candidate], k: int) -> tuple[Candidate, ...]:
    """The last k candidates of the network (a control of the paper's Table 11), in its order.

    :param candidates: in the network's order.
    :raises ReconError: if there are not so many.
    """
    _check_count("--last-k", k, candidates)
    return tuple(candidates[-k:])


def random_layers(candidates: Sequence[Candidate], k: int, seed: int) -> tuple[Candidate, ...]:
    """k candidates drawn uniformly (RSL, the paper's Table 7), in ranked order.

    :raises ReconError: if there are not so many.
    """
    _check_count("--random-layers", k, candidates)
    drawn = set(shuffled((candidate.name for candidate in candidates), seed)[:k])
    return tuple(candidate for candidate in candidates if candidate.name in drawn)


def random_parameters(
    candidates: Sequence[Candidate], k: int, sizes: Mapping[str, int], seed: int
) -> tuple[Candidate, ...]:
    """Random candidates with as many parameters as the first k of the ranking (RSP, the paper's Table 7).

    :param candidates: by falling score.
    :param sizes: the parameters of each.
    :raises ReconError: if there are not so many, or the first k have no parameters.
    """
    _check_count("--random-parameters", k, candidates)
    wanted = sum(sizes[candidate.name] for candidate in candidates[:k])
    if not wanted:
        raise ReconError(f"the first {counted(k, candidates[0].kind)} of the ranking have no parameters to match")
    drawn = matching_subset({candidate.name: sizes[candidate.name] for candidate in candidates}, wanted, seed)
    return tuple(candidate for candidate in candidates if candidate.name in drawn)


def min_score(candidates: Sequence[Candidate], score: float) -> tuple[Candidate, ...]:
    """The candidates whose score is at least `score`.

    :param candidates: by falling score.
    :raises ReconError: if there is none.
    """
    chosen = tuple(candidate for candidate in candidates if candidate.score >= score)
    if not chosen:
        highest = candidates[0]
        raise ReconError(
            f"no {highest.kind} has a score of {number(score)} or more; the highest is {number(highest.score)}"
        )
    return chosen


def _check_count(option: str, k: int, candidates: Sequence[Candidate]) -> None:
    if not 1 <= k <= len(candidates):
        held = counted(len(candidates), candidates[0].kind)
        raise ReconError(f"{option} {k} is out of range: the ranking holds {held}")


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

    def limit(self, model_parameters: int) -> float:
        """The limit in parameters, or in bytes.

        :param model_parameters: what a percentage is of.
        """
        return self.amount / 100 * model_parameters if self.unit == "percent" else self.amount


@dataclass(frozen=True)
class Cost:
    """What splitting a candidate adds to a model: its copies but one."""

    parameters: int
    bytes: int


def within_budget(
    candidates: Sequence[Candidate], budget: Budget, costs: Mapping[str, Cost], model_parameters: int
) -> tuple[Candidate, ...]:
    """Walk down the ranking and take everything with conflicts whose copies still fit.

    :param candidates: by falling score.
    :param costs: what each of them adds.
    :param model_parameters: what a percentage is of.
    :raises ReconError: if not even one fits.
    """
    limit = budget.limit(model_parameters)
    chosen: list[Candidate] = []
    spent = 0
    for candidate in candidates:
        cost = costs[candidate.name]
        price = cost.bytes if budget.unit == "bytes" else cost.parameters
        if candidate.score > 0 and spent + price <= limit:
            chosen.append(candidate)
            spent += price
    if not any(candidate.score > 0 for candidate in candidates):
        raise ReconError(f"no {candidates[0].kind} has conflicts, so there is nothing to split")
    if not chosen:
        raise ReconError(f"the budget is too small for any {candidates[0].kind} that has conflicts", "raise `--budget`")
    return tuple(chosen)


def explicit(names: Sequence[str]) -> tuple[str, ...]:
    """Layers or modules that the user named.

    :raises ReconError: if one is named twice or is empty.
    """
    seen: set[str] = set()
    for name in names:
        if not name:
            raise ReconError("--layers holds an empty name", "separate the names by single commas")
        if name in seen:
            raise ReconError(f"--layers names {quoted(name)} twice")
        seen.add(name)
    return tuple(names)
