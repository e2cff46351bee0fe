"""Where each task's network finds the attributes of a module that is branched."""

from __future__ import annotations

from collections.abc import Mapping

from recon_cli.branching.plan import BranchingPlan
from recon_cli.layers.names import TOKEN, layer_of


class Places:
    """The places of a module's attributes in the branched one.

    :param plan: of the module's state dict.
    :ivar whole: the layers that are split as modules.
    :ivar alone: the tensors that are split though their modules are not.
    """

    def __init__(self, plan: BranchingPlan) -> None:
        self.plan = plan
        self.layers = {name: layer for layer in plan.layers for name in (layer.name, *layer.aliases)}
        self.alone = frozenset(key for key, names in plan.copies.items() if _is_alone(key, names))
        self.whole = frozenset(layer_of(key) for key in plan.copies if key not in self.alone)

    def of(self, name: str, task: str) -> str:
        """Where a task's network finds an attribute or a module, by their dotted names."""
        if name in self.alone:
            return self.plan.place(name, task)
        layer = name
        while layer and layer not in self.whole:
            layer = layer.rpartition(".")[0]
        return f"{layer}.{TOKEN}.{self.layers[layer].branch_of(task)}{name[len(layer) :]}" if layer else name

    def of_tasks(self, name: str) -> Mapping[str, str] | None:
        """Where every task's network finds it; None if there is only one."""
        places = {task: self.of(name, task) for task in self.plan.tasks}
        return None if name in places.values() else places


def _is_alone(key: str, names: Mapping[str, str]) -> bool:
    return all(name == f"{key}.{TOKEN}.{branch}" for branch, name in names.items())
