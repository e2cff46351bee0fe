"""What a split costs in operations, and which of the chosen layers are split if that is limited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recon_cli.artifacts.dataflow import Dataflow
from recon_cli.artifacts.manifest import BranchingCost, SplitLayer
from recon_cli.branching.choosing import Choice
from recon_cli.branching.requests import CostLimit
from recon_cli.branching.streams import count_flops
from recon_cli.errors import ReconError, number, quoted
from recon_cli.layers.names import layer_of

_SHOWN = 3

Group = tuple[SplitLayer, ...]


def cost_of(flow: Dataflow, layers: Sequence[SplitLayer], ties: Mapping[str, str]) -> BranchingCost:
    """What a split costs.

    :param flow: of the network before its split.
    :param ties: for a tensor that lies in the same memory as an earlier one, that one's name.
    """
    by_layer = {}
    for group in tied_together([(layer,) for layer in layers], ties):
        by_layer.update(dict.fromkeys((layer.name for layer in group), count_flops(flow, group)))
    return BranchingCost(
        shared=count_flops(flow, ()),
        branched=count_flops(flow, layers),
        by_layer={layer.name: by_layer[layer.name] for layer in layers},
    )


def within_limit(choice: Choice, limit: CostLimit, flow: Dataflow, ties: Mapping[str, str]) -> Group:
    """The chosen layers that are split if the cost is limited, in their order.

    All of them, if they cost no more; or, if some may be dropped, down the ranking those with which it still does not.

    :raises ReconError: if they cost more and none may be dropped, or each of them alone does.
    """
    shared = count_flops(flow, ())
    most = limit.ratio * shared
    if count_flops(flow, choice.layers) <= most:
        return choice.layers
    cost = cost_of(flow, choice.layers, ties)
    if not limit.drop:
        dearest = sorted(cost.by_layer, key=cost.added_by, reverse=True)[:_SHOWN]
        raise ReconError(
            f"the branched network has {cost.ratio:.3f} times the operations of the shared one, more than "
            f"--max-cost {number(limit.ratio)} allows; alone, {', '.join(added_text(cost, name) for name in dearest)}",
            "pass --drop to split only what stays within it, or choose fewer or later layers",
        )
    kept: list[SplitLayer] = []
    ranked = sorted(zip(choice.ranks, choice.groups, strict=True), key=lambda item: item[0])
    for group in tied_together([group for _, group in ranked], ties):
        if count_flops(flow, [*kept, *group]) <= most:
            kept += group
    if not kept:
        cheapest = min(cost.by_layer, key=cost.added_by)
        raise ReconError(
            f"each of the chosen layers alone costs more than --max-cost {number(limit.ratio)} allows; the least, "
            f"{added_text(cost, cheapest)}",
            "raise `--max-cost`, or choose later layers",
        )
    names = {layer.name for layer in kept}
    return tuple(layer for layer in choice.layers if layer.name in names)


def tied_together(groups: Sequence[Group], ties: Mapping[str, str]) -> list[Group]:
    """Groups of layers, those joined that share a tensor, each where its first one is."""
    bonds = [{layer_of(key), layer_of(first)} for key, first in ties.items()]
    joined: list[tuple[set[str], Group]] = []
    for group in groups:
        names = {name for layer in group for name in (layer.name, *layer.aliases)}
        names = names.union(*(bond for bond in bonds if bond & names))
        place = next((place for place, (others, _) in enumerate(joined) if others & names), None)
        if place is None:
            joined.append((names, group))
        else:
            others, first = joined[place]
            joined[place] = (others | names, (*first, *group))
    return [group for _, group in joined]


def added_text(cost: BranchingCost, layer: str) -> str:
    """What splitting a layer alone adds, in words."""
    return f"{quoted(layer)} adds {100 * cost.added_by(layer):.1f}%"
