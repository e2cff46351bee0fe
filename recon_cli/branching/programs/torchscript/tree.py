"""The modules of a branched TorchScript archive, with its tensors under the names of the plan."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.jit import _recursive

from recon_cli.branching.plan import BranchingPlan
from recon_cli.branching.programs.copies import Copies
from recon_cli.branching.programs.torchscript.places import Places
from recon_cli.layers.names import TOKEN

_cloned: Any = torch._C._hack_do_not_use_clone_module_with_class  # type: ignore[attr-defined]  # torch has no type for it
_script_module: Any = _recursive.create_script_module


class Branches(nn.Module):
    """What stands in the place of a split layer or tensor, and holds its copies; it computes nothing."""


class BranchedTree:
    """A module tree that was made from another one.

    Every module is there with its attributes, by its own name and with a class of its own; the copies of a split layer
    are `layer.tasks.<branch>`, those of a tensor `layer.weight.tasks.<branch>`. Tensors of unsplit layers are the
    source's own. The root has the source's `forward`, whose graph is still to be written.

    :param source: a `torch.jit.ScriptModule`, which is left alone.
    :param plan: of its state dict.
    :ivar places: of the source's attributes in it.
    """

    def __init__(self, source: Any, plan: BranchingPlan) -> None:
        self.places = Places(plan)
        self._modules = {name: module._c for name, module in source.named_modules(remove_duplicate=False)}
        self._children: dict[str, list[str]] = {name: [] for name in self._modules}
        for name in list(self._modules)[1:]:
            owner, _, own = name.rpartition(".")
            self._children[owner].append(own)
        self._copies = Copies()
        self.root = self._made("", None)

    def __contains__(self, name: str) -> bool:
        """Whether the source has a module of that name."""
        return name in self._modules

    def module(self, name: str) -> Any:
        """A module of the new tree."""
        found = self.root
        for part in name.split(".") if name else ():
            found = found.getattr(part)
        return found

    def _made(self, name: str, branch: str | None) -> Any:
        """What stands for a module of the source, or one of its copies."""
        source = self._modules[name]
        alone = [key for key in self.places.alone if key.rpartition(".")[0] == name]
        methods = [each for each in source._method_names() if name or each != "forward"]
        left_out = [*self._children[name], *(key.rpartition(".")[2] for key in alone)]
        # It has a class of its own, with the constants of the source's.
        made = _cloned(source, methods, left_out)
        for key, value in {**_parameters(source), **_buffers(source)}.items():
            if key not in left_out:
                made.setattr(key, value if branch is None else self._copies.of(value, branch))
        for child in self._children[name]:
            inner = _joined(name, child)
            _add(made, child, self._split(inner) if inner in self.places.whole else self._made(inner, branch))
        for key in alone:
            _add(made, key.rpartition(".")[2], self._split_alone(key, source))
        return made

    def _split(self, name: str) -> Any:
        """What stands in the place of a split layer."""
        copies = _container(self._modules[name])
        for branch in self.places.layers[name].branches:
            _add(copies, branch.id, self._made(name, branch.id))
        return _holding(copies, self._modules[name])

    def _split_alone(self, key: str, owner: Any) -> Any:
        """What stands in the place of a tensor that is split though its module is not."""
        own = key.rpartition(".")[2]
        copies = Branches()
        for branch in self.places.plan.copies[key]:
            copy = self._copies.of(owner.getattr(own), branch)
            if own in _parameters(owner):
                copies.register_parameter(branch, nn.Parameter(copy, copy.requires_grad))
            else:
                copies.register_buffer(branch, copy)
        return _holding(_container(owner, copies), owner)


def _joined(owner: str, own: str) -> str:
    return f"{owner}.{own}" if owner else own


def _parameters(module: Any) -> dict[str, torch.Tensor]:
    found: Any = torch._C.ParameterDict(module)
    return dict(found.items())


def _buffers(module: Any) -> dict[str, torch.Tensor]:
    found: Any = torch._C.BufferDict(module)
    return dict(found.items())


def _add(owner: Any, name: str, module: Any) -> None:
    owner._register_attribute(name, module._type(), module)


def _container(beside: Any, content: nn.Module | None = None) -> Any:
    """A module that computes nothing, in the mode of another one."""
    made = _script_module(content or Branches(), lambda _: [], share_types=False)._c
    made.setattr("training", beside.getattr("training"))
    return made


def _holding(copies: Any, beside: Any) -> Any:
    outer = _container(beside)
    _add(outer, TOKEN, copies)
    return outer
