"""How far the tasks' streams of data part when layers are split, by the one rule of branching.

An operation runs once for all tasks that have the same branch of every tensor that it reads, and the same results of
every operation that it depends on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from recon_cli.artifacts.dataflow import Dataflow
from recon_cli.artifacts.manifest import SplitLayer
from recon_cli.grouping.partitions import Partition, all_together, partition_by
from recon_cli.layers.names import layer_of


class Streams:
    """How the streams part in one network, for as many splits as are to be tried."""

    def __init__(self, flow: Dataflow) -> None:
        self._flow = flow
        self._together = all_together(len(flow.tasks))
        self._meets: dict[tuple[Partition, Partition], Partition] = {}
        self._widths: dict[tuple[Partition, tuple[int, ...]], int] = {}

    def of(self, branches: Mapping[str, Partition]) -> list[Partition]:
        """How the streams part at each operation.

        :param branches: how the branches of a tensor part the tasks, if it has several.
        """
        found: list[Partition] = []
        for operation in self._flow.operations:
            partition = self._together
            for index in operation.inputs:
                partition = self._meet(partition, found[index])
            for key in operation.reads:
                if key in branches:
                    partition = self._meet(partition, branches[key])
            found.append(partition)
        return found

    def flops(self, streams: Sequence[Partition]) -> int:
        """The floating-point operations of a forward pass.

        :param streams: how the streams part at each operation.
        """
        return sum(
            operation.flops * self._width(partition, operation.tasks)
            for operation, partition in zip(self._flow.operations, streams, strict=True)
            if operation.flops
        )

    def _meet(self, one: Partition, other: Partition) -> Partition:
        """The partition in which those tasks are together that are so in both."""
        if one is other or one is self._together:
            return other
        pair = (one, other)
        if pair not in self._meets:
            self._meets[pair] = partition_by(list(zip(one, other, strict=True)))
        return self._meets[pair]

    def _width(self, partition: Partition, tasks: tuple[int, ...]) -> int:
        pair = (partition, tasks)
        if pair not in self._widths:
            self._widths[pair] = len({partition[task] for task in tasks})
        return self._widths[pair]


def count_flops(flow: Dataflow, layers: Sequence[SplitLayer]) -> int:
    """The floating-point operations of a forward pass when layers are split; without any, of the shared network.

    :param flow: of the network before its split.
    """
    streams = Streams(flow)
    return streams.flops(streams.of(branches_of(flow, _split_layers(flow.tasks, layers))))


def branches_of(flow: Dataflow, split: Mapping[str, Partition]) -> dict[str, Partition]:
    """How the branches of the tensors that are read part the tasks.

    :param split: name of a layer -> how its branches part them, for those that are split, under all their names.
    """
    return {key: split[layer_of(key)] for key in _read(flow) if layer_of(key) in split}


def statistics_apart(flow: Dataflow, layers: Sequence[SplitLayer]) -> dict[str, Partition]:
    """The unsplit layers whose buffers several streams move, such as a BatchNorm behind a split layer.

    :param flow: of the network before its split.
    :returns: layer -> how the streams part there, all its buffers taken together.
    """
    split = _split_layers(flow.tasks, layers)
    weights = branches_of(flow, split)
    moved = {key for operation in flow.operations for key in operation.moves}
    apart: dict[str, Partition] = {}
    while True:
        # A buffer of which every stream has its own may be read before it is moved, and parts the streams there.
        own = {key: apart[layer_of(key)] for key in moved if layer_of(key) in apart}
        found = _moved_apart(flow, {**own, **weights})
        found = {
            layer: partition_by(list(zip(partition, apart.get(layer, partition), strict=True)))
            for layer, partition in found.items()
            if layer not in split
        }
        if found == apart:
            return apart
        apart = found


def _moved_apart(flow: Dataflow, branches: Mapping[str, Partition]) -> dict[str, Partition]:
    moving = {layer_of(key) for operation in flow.operations for key in operation.moves}
    strangers: dict[str, set[tuple[int, int]]] = {}
    for operation, partition in zip(flow.operations, Streams(flow).of(branches), strict=True):
        pairs = {pair for pair in combinations(operation.tasks, 2) if partition[pair[0]] != partition[pair[1]]}
        for layer in {layer_of(key) for key in (*operation.reads, *operation.moves)} & moving:
            strangers.setdefault(layer, set()).update(pairs)
    return {layer: _without(pairs, len(flow.tasks)) for layer, pairs in strangers.items() if pairs}


def _without(strangers: set[tuple[int, int]], tasks: int) -> Partition:
    """The tasks in groups, each as early as can be, that no pair of strangers is together in."""
    groups: list[list[int]] = []
    for task in range(tasks):
        fitting = (group for group in groups if all((other, task) not in strangers for other in group))
        group = next(fitting, None)
        if group is None:
            groups.append([task])
        else:
            group.append(task)
    first = {task: group[0] for group in groups for task in group}
    return tuple(first[task] for task in range(tasks))


def _read(flow: Dataflow) -> set[str]:
    return {key for operation in flow.operations for key in operation.reads}


def _split_layers(tasks: Sequence[str], layers: Sequence[SplitLayer]) -> dict[str, Partition]:
    """How the branches of each split layer part the tasks, under all its names."""
    return {
        name: partition_by([layer.branch_of(task) for task in tasks])
        for layer in layers
        for name in (layer.name, *layer.aliases)
    }
