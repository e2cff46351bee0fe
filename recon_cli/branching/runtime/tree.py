"""The tree of names of a branched network, and the bonds between it and the views that compute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from recon_cli.branching.runtime.parts import SplitParts, join, walk
from recon_cli.layers.names import TOKEN


class Node(nn.Module):
    """A place in the tree of names, where a cloned module or a split layer stood; it computes nothing."""


@dataclass(frozen=True)
class Bond:
    """Something that the tree and a view hold together: a parameter, a buffer or a module.

    :ivar task: whose view it is.
    :ivar registry: which of a module's dictionaries holds it.
    """

    task: str
    registry: str
    tree_module: nn.Module
    tree_name: str
    view_module: nn.Module
    view_name: str

    @property
    def tree(self) -> dict[str, Any]:
        """The dictionary that holds it in the tree."""
        found: dict[str, Any] = vars(self.tree_module)[self.registry]
        return found

    @property
    def view(self) -> dict[str, Any]:
        """The dictionary that holds it in the view."""
        found: dict[str, Any] = vars(self.view_module)[self.registry]
        return found

    def renew(self) -> None:
        """Give the view what the tree holds."""
        self.view[self.view_name] = self.tree[self.tree_name]


@dataclass(frozen=True)
class Copy:
    """What one task has of what is split.

    :ivar name: the tensor of the module that belongs to it; all of them if None.
    """

    task: str
    module: nn.Module
    name: str | None = None

    def tensors(self) -> Iterator[torch.Tensor]:
        """Its tensors as they are at present."""
        if self.name is None:
            yield from self.module.parameters()
            yield from self.module.buffers()
            return
        for registry in ("_parameters", "_buffers"):
            found = vars(self.module)[registry].get(self.name)
            if found is not None:
                yield found


class TreeBuilder:
    """Builds the tree of names from the network and its views.

    :ivar bonds: what tree and views hold together.
    :ivar clones: every node with the modules of the views that stand for it.
    :ivar copies: what each task has of what is split.
    """

    def __init__(self, tasks: Sequence[str], parts: SplitParts, views: Mapping[str, nn.Module]) -> None:
        self._tasks = tasks
        self._parts = parts
        self._views = views
        self._nodes: dict[int, nn.Module] = {}
        self.bonds: list[Bond] = []
        self.clones: list[tuple[nn.Module, nn.Module]] = []
        self.copies: list[Copy] = []

    def fill(self, node: nn.Module, module: nn.Module, path: str) -> None:
        """Put into a node what stands under a cloned module of the network.

        :param path: the module's name.
        """
        self._nodes[id(module)] = node
        node.training = module.training
        self.clones += [(node, walk(self._views[task], path)) for task in self._tasks]
        node._non_persistent_buffers_set.update(module._non_persistent_buffers_set)
        for registry in ("_parameters", "_buffers"):
            for name in vars(module)[registry]:
                self._add_tensor(node, registry, path, name)
        for name, child in module._modules.items():
            self._add_child(node, name, child, join(path, name))

    def _add_child(self, node: nn.Module, name: str, child: nn.Module | None, path: str) -> None:
        parent, _, _ = path.rpartition(".")
        if path in self._parts.modules:
            layer = self._parts.layers[path]
            holder = _child(_child(node, name), TOKEN)
            for task in self._tasks:
                branch = layer.branch_of(task)
                holder._modules[branch] = walk(self._views[task], path)
                self.copies.append(Copy(task, holder._modules[branch]))  # type: ignore[arg-type]
                self._bind(task, "_modules", (holder, branch), (parent, name))
        elif child is not None and self._is_cloned(child, path):
            if id(child) in self._nodes:
                node._modules[name] = self._nodes[id(child)]
            else:
                self.fill(_child(node, name), child, path)
        else:
            node._modules[name] = child
            for task in self._tasks:
                self._bind(task, "_modules", (node, name), (parent, name))

    def _add_tensor(self, node: nn.Module, registry: str, path: str, name: str) -> None:
        split = self._parts.bare.get(join(path, name))
        holder = node if split is None else _child(_child(node, name), TOKEN)
        for task in self._tasks:
            place = name if split is None else split.branch_of(task)
            if split is not None:
                self.copies.append(Copy(task, walk(self._views[task], path), name))
            vars(holder)[registry][place] = vars(walk(self._views[task], path))[registry][name]
            if split is not None and name in node._non_persistent_buffers_set:
                holder._non_persistent_buffers_set.add(place)
            self._bind(task, registry, (holder, place), (path, name))

    def _is_cloned(self, child: nn.Module, path: str) -> bool:
        return walk(self._views[self._tasks[0]], path) is not child

    def _bind(self, task: str, registry: str, tree: tuple[nn.Module, str], view: tuple[str, str]) -> None:
        self.bonds.append(Bond(task, registry, *tree, walk(self._views[task], view[0]), view[1]))


def _child(node: nn.Module, name: str) -> nn.Module:
    # Written directly, because `add_module` refuses names that `nn.Module` itself has, such as a task called `type`.
    return node._modules.setdefault(name, Node())  # type: ignore[return-value]
