"""Whether a checkpoint can be split as it was asked: its kind, the tasks, and the ranking of its layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recon_cli.artifacts.manifest import Manifest
from recon_cli.artifacts.ranking import RankedLayer, Ranking
from recon_cli.artifacts.scores import UnrankedLayer
from recon_cli.branching.parameters import ParameterTable, count
from recon_cli.branching.requests import SplitRequest
from recon_cli.checkpoints.tensors import CheckpointSource
from recon_cli.errors import ReconError, counted, listed, quoted
from recon_cli.layers.names import is_parameter
from recon_cli.tasks import check_tasks


def check_unbranched(source: CheckpointSource, checkpoint: Path) -> None:
    """Refuse a checkpoint that carries a manifest."""
    if Manifest.METADATA_KEY in source.metadata:
        raise ReconError(
            f"{quoted(checkpoint)} is branched already: it carries a manifest",
            "split the checkpoint that it was made from",
        )


def tasks_of(request: SplitRequest) -> tuple[str, ...]:
    """The tasks that the network is split for, in the order of its outputs.

    :raises ReconError: if they are not known, or are not those of the ranking or the search.
    """
    ranking, search = request.ranking, request.selection.search
    tasks = request.tasks or (search.tasks if search else ranking.tasks if ranking else None)
    if tasks is None:
        raise ReconError(
            "the tasks are not known: the ranking does not name them" if ranking else "no tasks are named",
            "name them, separated by commas: `--tasks segmentation,depth`",
        )
    tasks = check_tasks(tasks)
    for what, document in (("search", search), ("ranking", ranking)):
        known = None if document is None else document.tasks
        if known is None:
            continue
        if set(known) != set(tasks):
            given = "--tasks names" if request.tasks else "the search is of"
            raise ReconError(
                f"{given} {listed(tasks)}, but the {what} is of {listed(known)}",
                f"leave --tasks out to take the {what}'s" if request.tasks else "leave --ranking out",
            )
        # The order is that of the model's outputs, which a profile and a search know.
        tasks = known
    return tasks


def check_ranking(ranking: Ranking, parameters: ParameterTable, checkpoint: Path) -> tuple[str, ...]:
    """Refuse the ranking of another network.

    :param checkpoint: what the checkpoint is called in messages.
    :returns: the layers of the checkpoint that the ranking does not know, where it does not claim to know all.
    """
    missing = [layer.name for layer in ranking.layers if not _is_there((layer.name, *layer.aliases), parameters)]
    if missing:
        raise ReconError(
            f"the checkpoint {quoted(checkpoint)} lacks {len(missing)} of the ranking's {len(ranking.layers)} layers: "
            f"{listed(missing)}",
            "split a checkpoint of the model that was profiled",
        )
    for layer in ranking.layers:
        if layer.parameters is None:
            continue
        found = count(parameters.of_layers((layer.name, *layer.aliases)))
        if found != layer.size:
            raise ReconError(
                f"the layer {quoted(layer.name)} has {found} parameters in {quoted(checkpoint)}, "
                f"but {layer.size} in the ranking",
                "split a checkpoint of the model that was profiled",
            )
    unknown = _unknown_layers(ranking, parameters)
    if unknown and ranking.unranked is not None:
        raise ReconError(
            f"the checkpoint {quoted(checkpoint)} has {counted(len(unknown), 'layer')} that the profiled model has "
            f"not: {listed(unknown)}",
            "split a checkpoint of the model that was profiled",
        )
    return unknown


def _is_there(names: Sequence[str], parameters: ParameterTable) -> bool:
    return any(name in parameters.layers.keys for name in names)


def _unknown_layers(ranking: Ranking, parameters: ParameterTable) -> tuple[str, ...]:
    layers: list[RankedLayer | UnrankedLayer] = [*ranking.layers, *(ranking.unranked or ())]
    known = {name for layer in layers for name in (layer.name, *layer.aliases)}
    return tuple(
        name
        for name, keys in parameters.layers.keys.items()
        if name not in known and any(is_parameter(key, parameters.tensors[key].dtype) for key in keys)
    )
