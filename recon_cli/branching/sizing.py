"""How large a checkpoint is before and after its split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from recon_cli.artifacts.manifest import Size, Sizes
from recon_cli.artifacts.ranking import Ranking
from recon_cli.branching.parameters import ParameterTable, count
from recon_cli.branching.plan import BranchingPlan
from recon_cli.checkpoints.tensors import TensorInfo


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
    own = parameters.all()
    size = {tensor.key: tensor.bytes for tensor in parameters.tensors.values()}
    once, places = dict.fromkeys(size, 1), {key: len(names) for key, names in plan.places.items()}
    return Sizes(
        before=_size(own, size, once),
        after=_size(own, size, places),
        split_parameters=count(parameters.among(plan.copies)),
        shared_parameters=shared,
        wanted_parameters=wanted_parameters,
    )


def _size(parameters: Iterable[TensorInfo], size: Mapping[str, int], times: Mapping[str, int]) -> Size:
    """The size of a checkpoint.

    :param size: the bytes of every tensor.
    :param times: how often it is there.
    """
    return Size(
        parameters=sum(tensor.size * times[tensor.key] for tensor in parameters),
        parameter_bytes=sum(size[tensor.key] * times[tensor.key] for tensor in parameters),
        tensors=sum(times.values()),
        tensor_bytes=sum(size[key] * number for key, number in times.items()),
    )
