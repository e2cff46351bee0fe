"""The branched network as a module: a view of the user's own network for every task, under one tree of names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from recon_cli.artifacts.manifest import Manifest
from recon_cli.branching.manifests import read_manifest
from recon_cli.branching.parts import find_split_parts
from recon_cli.branching.plan import BranchingPlan, check_ties, plan_branching
from recon_cli.branching.tree import Bond, TreeBuilder
from recon_cli.branching.views import make_views
from recon_cli.checkpoints.state_dict import tied_groups
from recon_cli.errors import ReconError, listed, quoted
from recon_cli.outputs import join_outputs


def branch(model: nn.Module, manifest: Manifest | str | os.PathLike[str]) -> BranchedModel:
    """Turn a network into a branched one.

    The branched network returns outputs in the form in which `model` does; each task's output is computed with its own
    copies of the split layers, and equals the unsplit network's until the copies are trained apart. Its state dict has
    the names of the branched checkpoint, so `load_state_dict` takes that file as it is.

    The copies start from `model`'s present weights. Tensors are not copied without need: those of unsplit layers and of
    the first branch of every split layer are `model`'s own, so train one of the two networks, not both.

    A forward pass runs the network once for every task. A BatchNorm that stays shared therefore updates its running
    statistics once for every task, also where the tasks' streams have not parted yet, and dropout draws a mask for
    every task.

    :param model: any `nn.Module` that returns one output per task: a mapping by task name, a tuple in task order, or an
        object with attributes.
    :param manifest: the manifest, or the path of a manifest or of a branched safetensors file.
    :raises ReconError: if the manifest is of another network, or the network cannot be taken apart.
    """
    if not isinstance(manifest, Manifest):
        manifest = read_manifest(Path(manifest))
    return BranchedModel(model, plan_for(model, manifest))


class BranchedModel(nn.Module):
    """A network whose split layers have a copy for each branch; made by :func:`branch`.

    Its tree of names holds every parameter once: `layer.tasks.<branch>.weight` for a split layer, the source's names
    for all others.
    """

    def __init__(self, model: nn.Module, plan: BranchingPlan) -> None:
        super().__init__()
        parts = find_split_parts(model, plan)
        # Views stay out of the module tree: their tensors would be listed once more for every task.
        self._views = make_views(model, plan, parts)
        builder = TreeBuilder(plan.tasks, parts, self._views)
        builder.fill(self, model, "")
        self._bonds: tuple[Bond, ...] = tuple(builder.bonds)
        self._clones: tuple[tuple[nn.Module, nn.Module], ...] = tuple(builder.clones)
        self.training = model.training
        expected = {place for names in plan.places.values() for place in names}
        if strange := set(self.state_dict()) ^ expected:
            names = listed(sorted(strange))
            raise ReconError(f"the model makes its state dict in a way of its own, so it cannot be branched: {names}")

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks, in order."""
        return tuple(self._views)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run every task's view on the same inputs, and join their outputs.

        :raises ReconError: if the network changes its input in place, which the next task's pass would see.
        """
        versions = _versions((args, kwargs))
        outputs = {}
        for task, view in self._views.items():
            if _versions((args, kwargs)) != versions:
                raise ReconError(
                    "the model changes its input in place, but each task's pass has to see the same input",
                    "let it work on a copy: `x = x.clone()`",
                )
            self._renew(task)
            # Containers are handed over as copies, so that a pass may take them apart.
            own_args, own_kwargs = tree_map(lambda leaf: leaf, (args, kwargs))
            outputs[task] = view(*own_args, **own_kwargs)
            self._adopt_buffers(task)
        return join_outputs(outputs)

    def _renew(self, task: str) -> None:
        """Give a view what the tree holds now; moving, loading and replacing happen there."""
        for node, clone in self._clones:
            clone.training = node.training
        for bond in self._bonds:
            if bond.task == task:
                bond.view[bond.view_name] = bond.tree[bond.tree_name]

    def _adopt_buffers(self, task: str) -> None:
        """Take over buffers that a view's pass has replaced rather than written to."""
        for bond in self._bonds:
            if bond.task == task and bond.registry == "_buffers":
                bond.tree[bond.tree_name] = bond.view[bond.view_name]


def plan_for(model: nn.Module, manifest: Manifest) -> BranchingPlan:
    """The plan of a manifest, checked against the network that it is to be applied to.

    :raises ReconError: naming what differs.
    """
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in model.parameters()):
        raise ReconError("the model has lazy modules without shapes", "run it on one batch before it is branched")
    state = model.state_dict(keep_vars=True)
    groups = tied_groups(state)
    records = {record.key: record for record in manifest.tensors}
    missing = [key for key in records if key not in state]
    # A checkpoint may leave out all names of a tied tensor but one.
    named = {name for group in groups if any(name in records for name in group) for name in group}
    unexpected = [key for key in state if key not in records and key not in named]
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
    check_ties(plan, {name: group[0] for group in groups for name in group[1:]})
    for key, record in records.items():
        if plan.places[key] != record.places:
            raise ReconError(
                f"the manifest puts {quoted(key)} at {listed(record.places)}, "
                f"but in this model it would be at {listed(plan.places[key])}"
            )
    return plan


def _versions(inputs: object) -> list[int]:
    """How often each tensor among the inputs was written to; inference tensors do not count it."""
    leaves = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]
    return [leaf._version for leaf in leaves if not leaf.is_inference()]
