"""The plan of a split: which tensor goes where. Pure data, no tensors.

The copies of a layer stand where `nn.ModuleDict` would put them: `layer.tasks.<branch>.weight`. A layer that has other
layers inside it cannot be replaced by a dictionary of modules; its own tensors become dictionaries of tensors:
`layer.weight.tasks.<branch>`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from recon_cli.artifacts.manifest import Branch, SplitLayer
from recon_cli.errors import ReconError, did_you_mean, listed, quoted
from recon_cli.layers.names import LayerTable
from recon_cli.tasks import branch_ids

TOKEN = "tasks"
"""The part of a name that stands between a layer and its branches."""


@dataclass(frozen=True)
class BranchingPlan:
    """Where every tensor of a state dict goes.

    :ivar tasks: the tasks, in order.
    :ivar layers: the split layers, in the order in which they were chosen.
    :ivar copies: for every tensor of a split layer, its copies: branch id -> name.
    :ivar places: for every tensor of the state dict, in its order, the names under which it stands afterwards.
    """

    tasks: tuple[str, ...]
    layers: tuple[SplitLayer, ...]
    copies: Mapping[str, Mapping[str, str]]
    places: Mapping[str, tuple[str, ...]]

    def behind(self, prefix: str) -> BranchingPlan:
        """The same plan where something stands before all names.

        :param prefix: what that is, such as the `module.` of a wrapper.
        """
        layers = tuple(
            layer.model_copy(
                update={"name": prefix + layer.name, "aliases": tuple(prefix + name for name in layer.aliases)}
            )
            for layer in self.layers
        )
        copies = {
            prefix + key: {branch: prefix + name for branch, name in names.items()}
            for key, names in self.copies.items()
        }
        places = {prefix + key: tuple(prefix + name for name in names) for key, names in self.places.items()}
        return BranchingPlan(self.tasks, layers, copies, places)


def split_per_task(
    name: str, aliases: Sequence[str], tasks: Sequence[str], reaching: Sequence[str] | None = None
) -> SplitLayer:
    """A layer with one branch for each task that reaches it.

    :param reaching: the tasks whose losses reach the layer, if that is known. The others, for whom it makes no
        difference, are counted with the first of them.
    """
    own = [task for task in tasks if reaching is None or task in reaching]
    others = tuple(task for task in tasks if task not in own)
    ids = dict(zip(tasks, branch_ids(tasks), strict=True))
    branches = [Branch(id=ids[task], tasks=(task, *others) if task == own[0] else (task,)) for task in own]
    return SplitLayer(name=name, aliases=tuple(aliases), branches=tuple(branches))


def plan_branching(
    keys: Iterable[str], layers: Sequence[SplitLayer], tasks: Sequence[str], table: LayerTable | None = None
) -> BranchingPlan:
    """Plan where the tensors of a state dict go when layers are split.

    :param keys: the names of its tensors, in order.
    :param layers: the layers to split; of a layer's names, those without tensors in the state dict are passed over.
    :param table: the layers of the state dict, if they are known already.
    :raises ReconError: if a layer is not there, is named twice, or a new name is taken already.
    """
    keys = list(keys)
    table = table or LayerTable.of(keys)
    copies: dict[str, dict[str, str]] = {}
    for layer in layers:
        if not any(name in table.keys for name in (layer.name, *layer.aliases)):
            raise ReconError(f"the checkpoint has no layer {quoted(layer.name)}", did_you_mean(layer.name, table.keys))
        for name in (layer.name, *layer.aliases):
            for key in table.keys.get(name, ()):
                if key in copies:
                    raise ReconError(f"the layer {quoted(name)} is to be split twice")
                copies[key] = {b.id: _name_of_copy(table, name, key, b.id) for b in layer.branches}
    places = {key: tuple(copies[key].values()) if key in copies else (key,) for key in keys}
    _check_collisions(places)
    return BranchingPlan(tuple(tasks), tuple(layers), copies, places)


def _name_of_copy(table: LayerTable, layer: str, key: str, branch: str) -> str:
    if table.is_leaf(layer):
        return f"{layer}.{TOKEN}.{branch}{key[len(layer) :]}"
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
