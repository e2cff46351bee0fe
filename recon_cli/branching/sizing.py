"""How large a checkpoint is before and after its split."""

from __future__ import annotations

from collections.abc import Container, Mapping

from recon_cli.artifacts.manifest import Size, Sizes
from recon_cli.artifacts.ranking import Ranking
from recon_cli.branching.parameters import ParameterTable, count
from recon_cli.branching.plan import BranchingPlan


def sizes_of(
    parameters: ParameterTable, plan: BranchingPlan, ranking: Ranking | None, wanted_parameters: int | None
) -> Sizes:
    """The checkpoint's size before and after the split.

    :param wanted_parameters: how many parameters the policy was to choose, if it matches a number.
    """
    shared = None
    if ranking:
        ranked = (name for layer in ranking.layers for name in (layer.name, *layer.aliases))
        shared = count(parameters.of_layers(ranked))
    sizes = {tensor.key: (tensor.size, tensor.bytes) for tensor in parameters.tensors.values()}
    own = parameters.own
    return Sizes(
        before=_size(own, sizes, dict.fromkeys(sizes, 1)),
        after=_size(own, sizes, {key: len(places) for key, places in plan.places.items()}),
        split_parameters=count(parameters.among(plan.copies)),
        shared_parameters=shared,
        wanted_parameters=wanted_parameters,
    )


def _size(parameters: Container[str], sizes: Mapping[str, tuple[int, int]], times: Mapping[str, int]) -> Size:
    """The size of a checkpoint.

    :param parameters: the names of its parameters.
    :param sizes: for every tensor, its elements and its bytes.
    :param times: how often it is there.
    """
    elements = parameter_bytes = tensor_bytes = 0
    for key, (size, own_bytes) in sizes.items():
        if key in parameters:
            elements += size * times[key]
            parameter_bytes += own_bytes * times[key]
        tensor_bytes += own_bytes * times[key]
    return Size(
        parameters=elements,
        parameter_bytes=parameter_bytes,
        tensors=sum(times.values()),
        tensor_bytes=tensor_bytes,
    )
