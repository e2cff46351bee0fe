"""What `recon split` was asked to do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from recon_cli.artifacts.dataflow import Dataflow
from recon_cli.artifacts.manifest import Policy, SplitPlan
from recon_cli.artifacts.ranking import Ranking
from recon_cli.artifacts.search import SearchResult
from recon_cli.artifacts.sharing import AskedSharing
from recon_cli.errors import ReconError, number, quoted
from recon_cli.layers.names import Granularity

POLICIES: tuple[Policy, ...] = get_args(Policy)
RANDOM_POLICIES: tuple[Policy, ...] = ("random-layers", "random-parameters")


@dataclass(frozen=True)
class SelectionRequest:
    """How the user chose the layers.

    Exactly one of the policies is set; they are called like the options.

    :ivar seed: of a random policy; None for 0.
    :ivar max_groups: how many copies of a layer there may be; None for one for every task.
    """

    top_k: int | None = None
    min_score: float | None = None
    budget: str | None = None
    max_params: str | None = None
    layers: tuple[str, ...] | None = None
    search: SearchResult | None = None
    random_layers: int | None = None
    random_parameters: int | None = None
    first_k: int | None = None
    last_k: int | None = None
    seed: int | None = None
    granularity: Granularity = "layer"
    max_groups: int | None = None

    def __post_init__(self) -> None:
        given = [policy for policy in POLICIES if self._argument(policy) is not None]
        if len(given) != 1:
            options = ", ".join(f"--{policy}" for policy in POLICIES[:-1])
            raise ReconError(
                f"{len(given)} ways to choose the layers are given; exactly one is needed",
                f"pass one of {options} and --{POLICIES[-1]}",
            )
        if self.seed is not None and given[0] not in RANDOM_POLICIES:
            raise ReconError(f"--seed is given, but --{given[0]} draws nothing at random", "leave --seed out")
        if self.max_groups is not None and self.max_groups < 2:
            raise ReconError(f"--max-groups {self.max_groups} would leave every layer shared", "allow 2 or more")
        if self.search is not None and self.granularity != "layer":
            raise ReconError("--granularity is given, but a search chooses modules itself", "leave --granularity out")
        if self.search is not None and self.max_groups is not None:
            raise ReconError("--max-groups is given, but a search groups the tasks itself", "leave --max-groups out")

    @property
    def policy(self) -> Policy:
        """The policy, as the manifest names it."""
        return next(policy for policy in POLICIES if self._argument(policy) is not None)

    @property
    def argument(self) -> str:
        """The policy's argument, as the manifest writes it."""
        value = self._argument(self.policy)
        if isinstance(value, tuple):
            return ",".join(value)
        if isinstance(value, SearchResult):
            return value.method
        return value if isinstance(value, str) else number(value or 0)

    @property
    def drawn_with(self) -> int | None:
        """The seed of a random policy; None for the others."""
        return (self.seed or 0) if self.policy in RANDOM_POLICIES else None

    def _argument(self, policy: Policy) -> int | float | str | tuple[str, ...] | SearchResult | None:
        value: int | float | str | tuple[str, ...] | SearchResult | None = getattr(self, policy.replace("-", "_"))
        return value


@dataclass(frozen=True)
class CostLimit:
    """A limit to what a split may cost.

    :ivar ratio: the operations of the branched network, relative to those of the shared one.
    :ivar drop: whether layers that would exceed it are left out; else the split is refused.
    """

    ratio: float
    drop: bool = False

    @classmethod
    def parse(cls, text: str, *, drop: bool) -> CostLimit:
        """Read `1.3`.

        :raises ReconError: if it is no number of 1 or more.
        """
        try:
            ratio = float(text)
        except ValueError:
            ratio = math.nan
        if not 1 <= ratio < math.inf:
            raise ReconError(
                f"--max-cost {quoted(text)} is no number of 1 or more, which the network costs as it is",
                "write it like `1.3`, for 30% more operations",
            )
        return cls(ratio, drop)


@dataclass(frozen=True)
class SplitRequest:
    """What `recon split` was asked to do.

    :ivar limit: what the split may cost in operations.
    :ivar allow_code: whether a program may be opened although that can run code from its file.
    :ivar batchnorm: what is to be done with running statistics of layers that stay shared behind a split; None for what
        is best as far as the network's data flow is known.
    """

    checkpoint: Path
    selection: SelectionRequest
    ranking: Ranking | None
    tasks: tuple[str, ...] | None
    ranking_file: Path | None = None
    key: str | None = None
    allow_code: bool = False
    limit: CostLimit | None = None
    batchnorm: AskedSharing | None = None
    search_file: Path | None = None

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of layers that are in the checkpoint, if it is of the right network."""
        if self.ranking is not None:
            return self.ranking.names
        if self.selection.search is not None:
            return tuple(layer.name for module in self.selection.search.modules for layer in module.layers)
        return self.selection.layers or ()

    @property
    def flow(self) -> Dataflow | None:
        """The network's data flow, if a document holds it."""
        documents = (self.ranking, self.selection.search)
        return next((each.flow for each in documents if each is not None and each.flow is not None), None)

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that are read, which no output replaces."""
        files = (self.checkpoint, self.ranking_file, self.search_file)
        return tuple(path for path in files if path is not None)


@dataclass(frozen=True)
class PlanRequest:
    """A plan that is to be carried out.

    :ivar allow_code: whether a program may be opened although that can run code from its file.
    """

    checkpoint: Path
    plan: SplitPlan
    plan_file: Path
    allow_code: bool = False

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that are read, which no output replaces."""
        return (self.checkpoint, self.plan_file)


def read_request(
    checkpoint: Path,
    *,
    key: str | None = None,
    plan: Path | None = None,
    ranking: Path | None = None,
    search: Path | None = None,
    tasks: tuple[str, ...] | None = None,
    allow_code: bool = False,
    max_cost: str | None = None,
    drop: bool = False,
    batchnorm: AskedSharing | None = None,
    **selection: Any,
) -> SplitRequest | PlanRequest:
    """What the options of `recon split` ask for; None stands for an option that is not given.

    :param selection: the fields of :class:`SelectionRequest`.
    :raises ReconError: if a file cannot be read, or the options contradict each other.
    """
    given = {name: value for name, value in selection.items() if value is not None}
    if drop and "max_params" in given:
        raise ReconError(
            "--drop is given beside --max-params, which keeps within --max-cost by itself", "leave --drop out"
        )
    if drop and max_cost is None:
        raise ReconError("--drop is given without --max-cost, so there is nothing to keep to", "pass both, or neither")
    if plan is None:
        limit = None if max_cost is None else CostLimit.parse(max_cost, drop=drop)
        document = None if ranking is None else Ranking.read(ranking)
        found = None if search is None else SearchResult.read(search)
        wish = SelectionRequest(search=found, **given)
        return SplitRequest(checkpoint, wish, document, tasks, ranking, key, allow_code, limit, batchnorm, search)
    decided = {
        "key": key, "ranking": ranking, "search": search, "tasks": tasks, "max-cost": max_cost,
        "batchnorm": batchnorm, **given,
    }  # fmt: skip
    others = [name for name, value in decided.items() if value is not None]
    if others:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in others)
        raise ReconError(
            f"--plan is given beside {options}, but a plan says itself what is split",
            "leave the others out, or make a new plan with them",
        )
    return PlanRequest(checkpoint, SplitPlan.read(plan), plan, allow_code)
