"""What a split costs at every K: the score that it covers against the parameters and operations that it adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from recon_cli.artifacts.dataflow import Dataflow
from recon_cli.artifacts.manifest import Manifest, SplitLayer, SplitPlan
from recon_cli.artifacts.ranking import RankedLayer, Ranking
from recon_cli.branching.plan import split_per_task
from recon_cli.branching.streams import count_flops
from recon_cli.report.materials import NamedSplit
from recon_cli.report.words import shown


@dataclass(frozen=True)
class SplitStep:
    """What a split of the first K layers comes to.

    :ivar covered: the part of all conflicts that these layers have.
    :ivar split_parameters: theirs, counted once.
    :ivar added_parameters: those of the further copies.
    :ivar added_bytes: the size of these.
    :ivar operations: of a forward pass, relative to those of the shared network; None where they are not known.
    """

    covered: float
    split_parameters: int
    added_parameters: int
    added_bytes: int
    operations: float | None


@dataclass(frozen=True)
class MadeSplit:
    """A split that was made or planned.

    :ivar layers: how many it splits.
    :ivar covered: the part of all conflicts that they have; None without a ranking.
    :ivar before: parameters of the checkpoint, `after` those of the branched one.
    :ivar bytes_before: their size.
    :ivar operations: as in a `SplitStep`.
    """

    name: str
    policy: str
    layers: int
    covered: float | None
    split_parameters: int
    before: int
    after: int
    bytes_before: int
    bytes_after: int
    operations: float | None


@dataclass(frozen=True)
class Costs:
    """What splits cost.

    :ivar shared_parameters: of all ranked layers.
    :ivar tasks: how many tasks there are.
    :ivar steps: for K = 1, 2, ...
    """

    shared_parameters: int
    tasks: int
    steps: tuple[SplitStep, ...]


def costs_of(ranking: Ranking) -> Costs | None:
    """What splitting the first K layers for every task costs; None if the ranking does not know the layers' sizes."""
    sizes = [layer.size for layer in ranking.layers if layer.size is not None]
    if ranking.tasks is None or len(sizes) < len(ranking.layers):
        return None
    layers = [_split(layer, ranking.tasks) for layer in ranking.layers]
    copies = [len(layer.branches) - 1 for layer in layers]
    steps = zip(
        _covered(ranking.layers),
        accumulate(sizes),
        accumulate(size * more for size, more in zip(sizes, copies, strict=True)),
        accumulate((layer.bytes or 0) * more for layer, more in zip(ranking.layers, copies, strict=True)),
        _operations(ranking.flow, layers),
        strict=True,
    )
    return Costs(sum(sizes), len(ranking.tasks), tuple(SplitStep(*step) for step in steps))


def made_splits(splits: Sequence[NamedSplit], ranking: Ranking | None) -> tuple[MadeSplit, ...]:
    """The splits that were made or planned, next to each other."""
    return tuple(_made_split(each.name, each.split, ranking) for each in splits)


def first_covering(costs: Costs, share: float) -> int:
    """The smallest K whose layers have this part of all conflicts; all layers, if there are no conflicts."""
    covering = (place for place, step in enumerate(costs.steps, start=1) if step.covered >= share)
    return next(covering, len(costs.steps))


def dearest_place(costs: Costs, k: int) -> int | None:
    """Which of the first K layers adds most operations as it comes to those before it, counted from 1.

    None where operations are not known, none are added, or no single layer brings half of them.
    """
    known = [step.operations for step in costs.steps[:k] if step.operations is not None]
    if len(known) < k or known[-1] <= 1:
        return None
    added = [after - before for before, after in zip([1.0, *known], known, strict=False)]
    most = max(added)
    return added.index(most) + 1 if most >= (known[-1] - 1) / 2 else None


def _covered(layers: Sequence[RankedLayer]) -> list[float]:
    total = sum(layer.score for layer in layers)
    return [reached / total if total > 0 else 0.0 for reached in accumulate(layer.score for layer in layers)]


def _split(layer: RankedLayer, tasks: tuple[str, ...]) -> SplitLayer:
    reaching = [task for task in tasks if task in (layer.tasks or tasks)]
    return split_per_task(layer.name, layer.aliases, tasks, reaching or tasks)


def _operations(flow: Dataflow | None, layers: Sequence[SplitLayer]) -> list[float | None]:
    """Of a split of the first K layers, for K = 1, 2, ...

    A further split layer never takes operations away, so what lies between two equal counts is equal to both.
    """
    shared = count_flops(flow, ()) if flow else 0
    if flow is None or not shared:
        return [None] * len(layers)
    found = [0] * (len(layers) + 1)
    found[0], found[-1] = shared, count_flops(flow, layers)
    open_ranges = [(0, len(layers))]
    while open_ranges:
        low, high = open_ranges.pop()
        if found[low] == found[high]:
            found[low : high + 1] = [found[low]] * (high - low + 1)
        elif high - low > 1:
            middle = (low + high) // 2
            found[middle] = count_flops(flow, layers[:middle])
            open_ranges += [(low, middle), (middle, high)]
    return [count / shared for count in found[1:]]


def _made_split(name: str, split: Manifest | SplitPlan, ranking: Ranking | None) -> MadeSplit:
    names = {each for layer in split.layers for each in (layer.name, *layer.aliases)}
    total = sum(layer.score for layer in ranking.layers) if ranking else 0
    covered = None
    if ranking and total > 0:
        covered = sum(layer.score for layer in ranking.layers if layer.name in names) / total
    selection, sizes = split.selection, split.sizes
    return MadeSplit(
        name=shown(name),
        policy=shown(f"{selection.policy} {selection.argument}"),
        layers=len(split.layers),
        covered=covered,
        split_parameters=sizes.split_parameters,
        before=sizes.before.parameters,
        after=sizes.after.parameters,
        bytes_before=sizes.before.parameter_bytes,
        bytes_after=sizes.after.parameter_bytes,
        operations=None if split.cost is None else split.cost.ratio,
    )
