"""How large a checkpoint is before and after its split."""

from __future__ import annotations

from collections.abc import Mapping

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
    before = _size(parameters, dict.fromkeys(parameters.tensors, 1))
    added = _size(parameters, {key: len(copies) - 1 for key, copies in plan.copies.items()})
    return Sizes(
        before=before,
        after=Size(**{name: number + getattr(added, name) for name, number in before}),
        split_parameters=count(parameters.among(plan.copies)),
        shared_parameters=shared,
        wanted_parameters=wanted_parameters,
    )


def _size(parameters: ParameterTable, times: Mapping[str, int]) -> Size:
    """The size of some tensors.

    :param times: how often each is there.
    """
    elements = parameter_bytes = tensor_bytes = 0
    for key, number in times.items():
        tensor = parameters.tensors[key]
        if key in parameters.own:
            elements += tensor.size * number
            parameter_bytes += tensor.bytes * number
        tensor_bytes += tensor.bytes * number
    return Size(
        parameters=elements,
        parameter_bytes=parameter_bytes,
        tensors=sum(times.values()),
        tensor_bytes=tensor_bytes,
    )
