"""The order in which a branched module lists its tensors, which is the order of an optimizer's parameters as well."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from recon_cli.artifacts.manifest import SplitLayer
from recon_cli.branching.plan import BranchingPlan
from recon_cli.layers.names import LayerTable, layer_of


def in_module_order(plan: BranchingPlan) -> list[tuple[str, str]]:
    """Every tensor of the branched state dict as (name, key of the source), as :func:`recon_cli.branch` lists them.

    The copies of a layer follow each other branch by branch. A tensor that is split by itself becomes a child of its
    module, so it comes behind those that the module keeps.
    """
    table = LayerTable.of(plan.places)
    root = [key for key in plan.places if "." not in key]
    others = [key for key in plan.places if "." in key]
    grouped = groupby([*_kept_first(plan, root), *others], layer_of)
    return [pair for layer, keys in grouped for pair in _of_layer(plan, table, layer, list(keys))]


def _kept_first(plan: BranchingPlan, keys: Iterable[str]) -> list[str]:
    return sorted(keys, key=lambda key: key in plan.copies)


def _of_layer(plan: BranchingPlan, table: LayerTable, layer: str, keys: list[str]) -> Iterator[tuple[str, str]]:
    if table.is_leaf(layer) and isinstance(plan.splits.get(keys[0]), SplitLayer):
        for branch in plan.copies[keys[0]]:
            yield from ((plan.copies[key][branch], key) for key in keys)
    else:
        yield from ((name, key) for key in _kept_first(plan, keys) for name in plan.places[key])
