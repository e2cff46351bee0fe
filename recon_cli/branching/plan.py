"""The plan of a split: which tensor goes where. Pure data, no tensors.

The copies of a layer stand where `nn.ModuleDict` would put them: `layer.tasks.<branch>.weight`. A layer that has other
layers inside it cannot be replaced by a dictionary of modules; its own tensors become dictionaries of tensors:
`layer.weight.tasks.<branch>`. So do the running statistics of a layer that is not split itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from recon_cli.artifacts.manifest import Branch, Split, SplitLayer, SplitStatistics
from recon_cli.errors import ReconError, did_you_mean, listed, quoted
from recon_cli.grouping.partitions import Partition, all_apart
from recon_cli.layers.names import TOKEN, LayerTable, layer_of
from recon_cli.tasks import branch_ids


@dataclass(frozen=True)
class BranchingPlan:
    """Where every tensor of a state dict goes.

    :ivar tasks: the tasks, in order.
    :ivar layers: the split layers, in the order in which they were chosen.
    :ivar statistics: the running statistics of other layers that every stream has its own of; None if one set serves
        all tasks, whichever streams move it.
    :ivar splits: for every tensor that is split, what it is split with.
    :ivar copies: for every tensor that is split, its copies: branch id -> name.
    :ivar places: for every tensor of the state dict, in its order, the names under which it stands afterwards.
    """

    tasks: tuple[str, ...]
    layers: tuple[SplitLayer, ...]
    statistics: tuple[SplitStatistics, ...] | None
    splits: Mapping[str, Split]
    copies: Mapping[str, Mapping[str, str]]
    places: Mapping[str, tuple[str, ...]]

    def place(self, key: str, task: str) -> str:
        """The name of what stands for a tensor in a task's network."""
        return self.copies[key][self.splits[key].branch_of(task)] if key in self.copies else key

    def behind(self, prefix: str) -> BranchingPlan:
        """The same plan where something stands before all names.

        :param prefix: what that is, such as the `module.` of a wrapper.
        """
        layers = tuple(layer.behind(prefix) for layer in self.layers)
        statistics = None if self.statistics is None else tuple(each.behind(prefix) for each in self.statistics)
        splits = {prefix + key: split for key, split in self.splits.items()}
        copies = {
            prefix + key: {branch: prefix + name for branch, name in names.items()}
            for key, names in self.copies.items()
        }
        places = {prefix + key: tuple(prefix + name for name in names) for key, names in self.places.items()}
        return BranchingPlan(self.tasks, layers, statistics, splits, copies, places)


def split_per_task(
    name: str, aliases: Sequence[str], tasks: Sequence[str], reaching: Sequence[str] | None = None
) -> SplitLayer:
    """A layer with one branch for each task that reaches it; the parameters are those of :func:`split_by`."""
    return split_by(all_apart(len(tasks)), name, aliases, tasks, reaching)


def split_by(
    partition: Partition,
    name: str,
    aliases: Sequence[str],
    tasks: Sequence[str],
    reaching: Sequence[str] | None = None,
) -> SplitLayer:
    """A layer with one branch for each group of the tasks that reach it.

    :param partition: the groups.
    :param reaching: the tasks whose losses reach the layer, if that is known. The others, for whom it makes no
        difference, are counted with the first group.
    """
    places = [place for place, task in enumerate(tasks) if reaching is None or task in reaching]
    groups: dict[int, list[str]] = {}
    for place in places:
        groups.setdefault(partition[place], []).append(tasks[place])
    groups[partition[places[0]]] += [task for place, task in enumerate(tasks) if place not in places]
    return split_by_groups(name, aliases, tasks, [*groups.values()])


def split_by_groups(
    name: str, aliases: Sequence[str], tasks: Sequence[str], groups: Sequence[Sequence[str]]
) -> SplitLayer:
    """A layer with one branch for each group of tasks, called like the first of them.

    :param groups: a partition of the tasks.
    """
    ids = dict(zip(tasks, branch_ids(tasks), strict=True))
    branches = tuple(Branch(id=ids[group[0]], tasks=tuple(group)) for group in groups)
    return SplitLayer(name=name, aliases=tuple(aliases), branches=branches)


def plan_branching(
    keys: Iterable[str],
    layers: Sequence[SplitLayer],
    tasks: Sequence[str],
    table: LayerTable | None = None,
    *,
    statistics: Sequence[SplitStatistics] | None = None,
) -> BranchingPlan:
    """Plan where the tensors of a state dict go when layers are split.

    :param keys: the names of its tensors, in order.
    :param layers: the layers to split; of a layer's names, those without tensors in the state dict are passed over.
    :param table: the layers of the state dict, if they are known already.
    :param statistics: the running statistics of other layers that every stream has its own of, as
        :func:`recon_cli.branching.statistics.own_statistics` finds them; None if one set serves all tasks.
    :raises ReconError: if a layer or a buffer is not there, is named twice, or a new name is taken already.
    """
    keys = list(keys)
    table = table or LayerTable.of(keys)
    splits: dict[str, Split] = {}
    copies: dict[str, dict[str, str]] = {}

    def split_tensor(key: str, split: Split, names: dict[str, str]) -> None:
        if key in copies:
            raise ReconError(f"the layer {quoted(split.name)} is to be split twice")
        splits[key], copies[key] = split, names

    for layer in layers:
        if not any(name in table.keys for name in (layer.name, *layer.aliases)):
            raise ReconError(f"the checkpoint has no layer {quoted(layer.name)}", did_you_mean(layer.name, table.keys))
        for name in (layer.name, *layer.aliases):
            for key in table.keys.get(name, ()):
                split_tensor(key, layer, {b.id: _name_of_copy(table, name, key, b.id) for b in layer.branches})
    for each in statistics or ():
        for key in each.buffers:
            if key not in table.keys.get(layer_of(key), ()):
                raise ReconError(f"the checkpoint has no buffer {quoted(key)}", did_you_mean(key, keys))
            split_tensor(key, each, {b.id: _name_of_bare_copy(key, b.id) for b in each.branches})
    places = {key: tuple(copies[key].values()) if key in copies else (key,) for key in keys}
    _check_collisions(places)
    own = None if statistics is None else tuple(statistics)
    return BranchingPlan(tuple(tasks), tuple(layers), own, splits, copies, places)


def _name_of_copy(table: LayerTable, layer: str, key: str, branch: str) -> str:
    if table.is_leaf(layer):
        return f"{layer}.{TOKEN}.{branch}{key[len(layer) :]}"
    return _name_of_bare_copy(key, branch)


def _name_of_bare_copy(key: str, branch: str) -> str:
    return f"{key}.{TOKEN}.{branch}"


def _check_collisions(places: Mapping[str, tuple[str, ...]]) -> None:
    if len(set(chain.from_iterable(places.values()))) == sum(map(len, places.values())):
        return
    owner: dict[str, str] = {}
    for key, names in places.items():
        for name in names:
            if name in owner:
                split = key if len(names) > 1 else owner[name]
                raise ReconError(
                    f"the checkpoint has a tensor {quoted(name)} already, the name of a copy of {quoted(split)}",
                    "the checkpoint seems to be branched already; split the original one",
                )
            owner[name] = key


def check_ties(plan: BranchingPlan, ties: Mapping[str, str]) -> None:
    """Refuse a plan that would split a tensor and keep one that is tied to it.

    :param ties: for a tensor that lies in the same memory as an earlier one, that one's name.
    :raises ReconError: naming both tensors.
    """
    for key, first in ties.items():
        if _branches(plan, key) != _branches(plan, first):
            split, kept = (key, first) if key in plan.copies else (first, key)
            raise ReconError(
                f"the tensors {listed([split, kept])} are tied, but only the first belongs to a split layer",
                "split both layers or neither; `--layers` takes several, separated by commas",
            )


def _branches(plan: BranchingPlan, key: str) -> tuple[str, ...] | None:
    return tuple(plan.copies[key]) if key in plan.copies else None
