"""Checking what a branched network does against the network that it was split from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from recon_cli.artifacts.manifest import Manifest, SplitPlan
from recon_cli.branching.manifests import read_record
from recon_cli.errors import ReconError, listed, quoted
from recon_cli.layers.names import layer_of
from recon_cli.network_states import Before
from recon_cli.outputs import output_of

_TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-3}
_COARSE = 5e-2
"""Relative to a layer's largest gradient; sums over streams are rounded in another order."""


class RandomNetworkError(ReconError):
    """The network draws random numbers, so that there is nothing to compare."""


def verify_network(
    model: nn.Module,
    branched: nn.Module,
    split: Manifest | SplitPlan | str | os.PathLike[str],
    *args: Any,
    **kwargs: Any,
) -> list[str]:
    """Compare a freshly branched network with the one that it was split from, on one batch.

    Every task's output has to be equal bit for bit, its loss must reach no branch but the task's own, and the gradient
    of the task's branch of a layer has to be the one that the layer has in the source. Both networks stay as they are.

    A network that draws random numbers draws others behind a split, so put both into evaluation mode.

    :param model: the network before its split, or any module that stands for it.
    :param branched: the network after it, with the names of the split.
    :param split: the manifest or plan of the split, or the path of one.
    :param args: the batch, as the networks take it.
    :returns: what differs, as sentences; nothing if all agrees.
    :raises RandomNetworkError: if the network draws random numbers.
    """
    if not isinstance(split, (Manifest, SplitPlan)):
        split = read_record(Path(split))
    before = [Before(network) for network in (model, branched)]
    draws = torch.get_rng_state()
    try:
        expected, reached = _run(model, split.tasks, args, kwargs)
        if not torch.equal(torch.get_rng_state(), draws):
            raise RandomNetworkError(
                "the network draws random numbers, so that its outputs cannot be compared",
                "put it and the branched network into evaluation mode",
            )
        found, own = _run(branched, split.tasks, args, kwargs)
    finally:
        for state in reversed(before):
            state.restore()
    problems = [
        f"the output of task {quoted(task)} is not the source's"
        for task in split.tasks
        if not _equal(expected[task], found[task])
    ]
    return [*problems, *_gradient_problems(split, reached, own)]


_Gradients = Mapping[str, Mapping[str, torch.Tensor]]


def _run(
    network: nn.Module, tasks: Sequence[str], args: Any, kwargs: Any
) -> tuple[dict[str, list[Any]], dict[str, dict[str, torch.Tensor]]]:
    """For every task, its output, and the gradients of its output's sum by the names of the parameters."""
    parameters = {name: p for name, p in network.named_parameters(remove_duplicate=False) if p.requires_grad}
    with torch.enable_grad():
        output = network(*tree_map(_copied, args), **tree_map(_copied, kwargs))
        outputs = {task: tree_leaves(output_of(output, tasks, task)) for task in tasks}
        gradients = {task: _gradients(outputs[task], parameters) for task in tasks}
    return outputs, gradients


def _gradients(output: Sequence[Any], parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    leaves = [leaf for leaf in output if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
    if not leaves or not parameters:
        return {}
    total = torch.stack([(leaf.abs() if leaf.is_complex() else leaf).double().sum() for leaf in leaves]).sum()
    found = torch.autograd.grad(total, list(parameters.values()), retain_graph=True, allow_unused=True)
    return {name: gradient for name, gradient in zip(parameters, found, strict=True) if gradient is not None}


def _gradient_problems(split: Manifest | SplitPlan, reached: _Gradients, own: _Gradients) -> Iterator[str]:
    layers = {name: layer for layer in split.layers for name in (layer.name, *layer.aliases)}
    for record in split.tensors:
        copies = record.copies or {}
        # Buffers that every stream has for itself have no gradients.
        if copies and layer_of(record.key) not in layers:
            continue
        for task in split.tasks:
            place = copies[layers[layer_of(record.key)].branch_of(task)] if copies else record.key
            foreign = [name for name in copies.values() if name != place and _is_reached(own[task].get(name))]
            if foreign:
                yield f"the loss of task {quoted(task)} reaches {listed(foreign)}, which belongs to other tasks"
            if not _close(own[task].get(place), reached[task].get(record.key)):
                yield f"the gradient of {quoted(place)} for task {quoted(task)} is not the source's"


def _is_reached(gradient: torch.Tensor | None) -> bool:
    return gradient is not None and bool(gradient.count_nonzero())


def _close(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    if one is None or other is None:
        return not _is_reached(one if other is None else other)
    scale = other.abs().max().item() if other.numel() else 0.0
    tolerance = _TOLERANCES.get(other.dtype, _COARSE)
    return torch.allclose(one, other, rtol=tolerance, atol=tolerance * scale, equal_nan=True)


def _equal(expected: Sequence[Any], found: Sequence[Any]) -> bool:
    return len(expected) == len(found) and all(map(_same, expected, found))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
    return bool(one == other)


def _copied(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, torch.Tensor) else leaf
