"""The order in which a branched module lists its tensors, which is the order of an optimizer's parameters as well."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

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
    ordered = [*(key for key in root if key not in plan.copies), *(key for key in root if key in plan.copies), *others]
    return [pair for layer, keys in groupby(ordered, layer_of) for pair in _of_layer(plan, table, layer, list(keys))]


def _of_layer(plan: BranchingPlan, table: LayerTable, layer: str, keys: list[str]) -> Iterator[tuple[str, str]]:
    if table.is_leaf(layer) and keys[0] in plan.copies:
        for branch in plan.copies[keys[0]]:
            yield from ((plan.copies[key][branch], key) for key in keys)
    else:
        yield from ((name, key) for key in keys for name in plan.places[key])
