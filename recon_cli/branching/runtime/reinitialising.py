"""Copies of split layers that begin anew, with weights as their layers draw them, rather than equal to the first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from recon_cli.artifacts.manifest import Branch, SplitLayer
from recon_cli.branching.plan import BranchingPlan
from recon_cli.errors import ReconError, listed, quoted
from recon_cli.layers.names import TOKEN, layer_of


def draw_anew(branched: nn.Module, plan: BranchingPlan) -> None:
    """Draw the weights of every copy but the first of each split layer, with the layer's own `reset_parameters`.

    :param branched: the branched network.
    :raises ReconError: if a layer has no such method, or it does not set all parameters of the layer.
    """
    for layer in plan.layers:
        for branch in layer.branches[1:]:
            _draw(layer, _modules(branched, plan, layer, branch))


def _modules(branched: nn.Module, plan: BranchingPlan, layer: SplitLayer, branch: Branch) -> list[nn.Module]:
    """The modules of a copy under all names of its layer."""
    present = {layer_of(key) for key in plan.splits}
    names = [name for name in (layer.name, *layer.aliases) if name in present]
    try:
        modules = [branched.get_submodule(f"{name}.{TOKEN}.{branch.id}") for name in names]
    except AttributeError:
        raise _refusal(layer, "its tensors are copied one by one, so there is no module that draws them") from None
    for module in modules:
        if not callable(getattr(module, "reset_parameters", None)):
            raise _refusal(layer, f"its class {quoted(type(module).__name__)} has no `reset_parameters`")
    return modules


def _draw(layer: SplitLayer, modules: Sequence[nn.Module]) -> None:
    found = (pair for module in modules for pair in module.named_parameters())
    parameters = {
        name: parameter for name, parameter in found if parameter.is_floating_point() or parameter.is_complex()
    }
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.fill_(float("nan"))
        # What is tied is to be as the layer draws it under its first name.
        for module in reversed(modules):
            module.reset_parameters()  # type: ignore[operator]  # it has been seen that it can be called
    left = [name for name, parameter in parameters.items() if parameter.isnan().any()]
    if left:
        raise _refusal(layer, f"its `reset_parameters` does not set {listed(left)}")


def _refusal(layer: SplitLayer, reason: str) -> ReconError:
    return ReconError(
        f"the copies of the layer {quoted(layer.name)} cannot begin anew: {reason}",
        "leave `reinitialise` out, and set the copies' weights yourself",
    )
