"""The branched network as a module: a view of the user's own network for every task, under one tree of names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from recon_cli.artifacts.manifest import Manifest, SplitLayer
from recon_cli.branching.manifests import read_manifest
from recon_cli.branching.plan import TOKEN, BranchingPlan, check_ties, plan_branching
from recon_cli.branching.views import copy_layers, make_view, modules_around, parts_of
from recon_cli.errors import ReconError, listed, quoted
from recon_cli.layers.names import LayerTable
from recon_cli.outputs import join_outputs


def branch(model: nn.Module, manifest: Manifest | str | os.PathLike[str]) -> BranchedModel:
    """Turn a network into a branched one.

    The branched network returns outputs in the form in which `model` does; each task's output is computed with its own
    copies of the split layers, and equals the unsplit network's until the copies are trained apart. Its state dict has
    the names of the branched checkpoint, so `load_state_dict` takes that file as it is.

    The copies start from `model`'s present weights. The network takes `model` over: unsplit modules and the first
    branch of every split layer are `model`'s own.

    A forward pass runs the network once for every task. A BatchNorm that stays shared therefore updates its running
    statistics once for every task, also where the tasks' streams have not parted yet. What a module keeps in a closure
    or a hook, and not in an attribute, is not seen: it goes on using the first branch.

    :param model: any `nn.Module` that returns one output per task: a mapping by task name, a tuple in task order, or an
        object with attributes.
    :param manifest: the manifest, or the path of a manifest or of a branched safetensors file.
    :raises ReconError: if the manifest is of another network, or a layer cannot be copied.
    """
    if not isinstance(manifest, Manifest):
        manifest = read_manifest(Path(manifest))
    return BranchedModel(model, _plan(model, manifest))


@dataclass(frozen=True)
class _Bond:
    """A tensor that a cloned module of a view and the tree of names own together."""

    task: str
    kind: str  # _parameters or _buffers
    tree_module: nn.Module
    tree_name: str
    view_module: nn.Module
    view_name: str

    @property
    def in_tree(self) -> dict[str, torch.Tensor | None]:
        return vars(self.tree_module)[self.kind]  # type: ignore[no-any-return]

    @property
    def in_view(self) -> dict[str, torch.Tensor | None]:
        return vars(self.view_module)[self.kind]  # type: ignore[no-any-return]


class BranchedModel(nn.Module):
    """A network whose split layers have a copy for each branch; made by :func:`branch`.

    Its tree of names holds every parameter once: `layer.tasks.<branch>.weight` for a split layer, the source's names
    for all others.
    """

    def __init__(self, model: nn.Module, plan: BranchingPlan) -> None:
        super().__init__()
        parts = [part for layer in plan.layers for part in parts_of(model, layer)]
        around = modules_around(model, parts)
        substitutes = copy_layers(model, plan)
        # Views stay out of the module tree: their tensors would be listed once more for every task.
        self._views = {task: make_view(model, around, substitutes[task]) for task in plan.tasks}
        self._bonds: list[_Bond] = []
        _TreeBuilder(model, plan, around, self._views, self._bonds).fill(self, model, "")
        self.training = model.training

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks, in order."""
        return tuple(self._views)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run every task's view on the same inputs, and join their outputs."""
        outputs = {}
        for task, view in self._views.items():
            outputs[task] = view(*args, **kwargs)
            self._adopt_buffers(task)
        return join_outputs(outputs)

    def train(self, mode: bool = True) -> BranchedModel:
        """Set training or evaluation mode, also in the modules of the views."""
        super().train(mode)
        for view in self._views.values():
            view.train(mode)
        return self

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights by the names of the branched checkpoint."""
        result = super().load_state_dict(state_dict, strict=strict, assign=assign)
        self._renew_views()
        return result

    def _apply(self, fn: Any, recurse: bool = True) -> BranchedModel:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._renew_views()
        return self

    def _renew_views(self) -> None:
        """Give the views the tensors that the tree has now; a move to another device makes new ones."""
        for bond in self._bonds:
            bond.in_view[bond.view_name] = bond.in_tree[bond.tree_name]

    def _adopt_buffers(self, task: str) -> None:
        """Take over buffers that a view's forward pass has replaced rather than written to."""
        replaced = [
            bond
            for bond in self._bonds
            if bond.task == task
            and bond.kind == "_buffers"
            and bond.in_view[bond.view_name] is not bond.in_tree[bond.tree_name]
        ]
        for bond in replaced:
            bond.in_tree[bond.tree_name] = bond.in_view[bond.view_name]
        if replaced:
            self._renew_views()


class _Node(nn.Module):
    """A place in the tree of names, where a cloned module or a split layer stood; it computes nothing."""


class _TreeBuilder:
    """Builds the tree of names of a branched network from the network and its views."""

    def __init__(
        self,
        model: nn.Module,
        plan: BranchingPlan,
        around: frozenset[int],
        views: Mapping[str, nn.Module],
        bonds: list[_Bond],
    ) -> None:
        table = LayerTable.of(model.state_dict())
        self._plan = plan
        self._around = around
        self._views = views
        self._bonds = bonds
        self._layer_of: dict[str, SplitLayer] = {
            name: layer for layer in plan.layers for name in (layer.name, *layer.aliases)
        }
        self._leaves = {name for name in self._layer_of if table.is_leaf(name)}
        self._layer_of_key = {
            key: layer for name, layer in self._layer_of.items() if name not in self._leaves for key in table.keys[name]
        }

    def fill(self, node: nn.Module, module: nn.Module, path: str) -> None:
        """Put into a node what stands under a module around split layers."""
        for kind in ("_parameters", "_buffers"):
            for name, tensor in vars(module)[kind].items():
                if tensor is not None:
                    self._add_tensor(node, kind, path, name, tensor)
        vars(node)["_non_persistent_buffers_set"] |= module._non_persistent_buffers_set
        for name, child in module._modules.items():
            child_path = _join(path, name)
            if child_path in self._leaves:
                holder = _child(_child(node, name), TOKEN)
                for branch in self._layer_of[child_path].branches:
                    holder._modules[branch.id] = _walk(self._views[branch.tasks[0]], child_path)
            elif child is not None and id(child) in self._around:
                self.fill(_child(node, name), child, child_path)
            else:
                node._modules[name] = child

    def _add_tensor(self, node: nn.Module, kind: str, path: str, name: str, tensor: torch.Tensor) -> None:
        layer = self._layer_of_key.get(_join(path, name))
        if layer is None:
            vars(node)[kind][name] = tensor
            for task in self._views:
                self._bind(task, kind, node, name, path, name)
            return
        holder = _child(_child(node, name), TOKEN)
        for branch in layer.branches:
            own = _walk(self._views[branch.tasks[0]], path)
            vars(holder)[kind][branch.id] = vars(own)[kind][name]
            for task in branch.tasks:
                self._bind(task, kind, holder, branch.id, path, name)

    def _bind(self, task: str, kind: str, tree: nn.Module, tree_name: str, path: str, name: str) -> None:
        self._bonds.append(_Bond(task, kind, tree, tree_name, _walk(self._views[task], path), name))


def _plan(model: nn.Module, manifest: Manifest) -> BranchingPlan:
    state = model.state_dict(keep_vars=True)
    ties = _ties(state)
    records = {record.key: record for record in manifest.tensors}
    missing = [key for key in records if key not in state]
    # A checkpoint may leave out the second name of a tied tensor.
    unexpected = [key for key in state if key not in records and ties.get(key) not in records]
    if missing or unexpected:
        parts = [f"the model lacks {listed(missing)}"] if missing else []
        parts += [f"the manifest does not know {listed(unexpected)}"] if unexpected else []
        raise ReconError(f"the manifest is of another model: {'; '.join(parts)}")
    for key, record in records.items():
        if tuple(state[key].shape) != record.shape:
            raise ReconError(
                f"the manifest is of another model: {quoted(key)} has the shape {record.shape} there, "
                f"the model's {tuple(state[key].shape)}"
            )
    plan = plan_branching(state, manifest.layers, manifest.tasks)
    check_ties(plan, ties)
    for key, record in records.items():
        if plan.places[key] != record.places:
            raise ReconError(
                f"the manifest puts {quoted(key)} at {listed(record.places)}, "
                f"but in this model it would be at {listed(plan.places[key])}"
            )
    return plan


def _ties(state: Mapping[str, torch.Tensor]) -> dict[str, str]:
    first: dict[int, str] = {}
    return {key: first[id(t)] for key, t in state.items() if first.setdefault(id(t), key) != key}


def _child(node: nn.Module, name: str) -> nn.Module:
    # Written directly, because `add_module` refuses names that `nn.Module` itself has, such as a task called `type`.
    return node._modules.setdefault(name, _Node())  # type: ignore[return-value]


def _walk(module: nn.Module, path: str) -> nn.Module:
    for name in path.split(".") if path else ():
        module = module._modules[name]  # type: ignore[assignment]
    return module


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
