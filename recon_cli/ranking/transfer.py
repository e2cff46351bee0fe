"""A ranking that was found on one dataset, for another one, or for a network whose layers are called otherwise.

The paper finds that the layers found on one dataset serve another with the same network (Recon, Tables 15 and 16).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recon_cli.artifacts.ranking import RankedLayer, Ranking
from recon_cli.errors import ReconError, did_you_mean, listed, quoted

_ANY = "*"


@dataclass(frozen=True)
class Renaming:
    """How layers are called in the other network: `encoder.* = backbone.*`, where `*` stands for the same text in both.

    :ivar old: the name, or what names are like that are to be changed.
    :ivar new: the name in the other network.
    """

    old: str
    new: str

    @classmethod
    def parse(cls, text: str) -> Renaming:
        """Read `OLD=NEW`.

        :raises ReconError: if it is not that, or only one side has a `*`, or one has several.
        """
        old, equals, new = (part.strip() for part in text.partition("="))
        if not (equals and old and new) or "=" in new:
            raise ReconError(f"--rename {quoted(text)} is not OLD=NEW", "write it like `encoder.*=backbone.*`")
        if old.count(_ANY) != new.count(_ANY) or old.count(_ANY) > 1:
            raise ReconError(
                f"--rename {quoted(text)} has not one `*` on both sides, or none",
                "`*` stands for the same text in the old name and in the new one",
            )
        return cls(old, new)

    def applied(self, name: str) -> str | None:
        """The new name of a layer; None if it is not meant."""
        found = re.fullmatch(re.escape(self.old).replace(re.escape(_ANY), "(.*)"), name)
        return None if found is None else self.new.replace(_ANY, "".join(found.groups()))


@dataclass(frozen=True)
class Transfer:
    """A ranking for another network.

    :ivar left_out: layers of the ranking that the other network has not, by their old names.
    :ivar unplaced: shared layers of the other network that the ranking does not tell of.
    """

    ranking: Ranking
    left_out: tuple[str, ...]
    unplaced: tuple[str, ...]


def transfer(
    ranking: Ranking, to: Ranking | None, renamings: Sequence[Renaming] = (), tasks: tuple[str, ...] | None = None
) -> Transfer:
    """Take a ranking over to another dataset or network, by the names of the layers.

    Order and scores stay; what a layer is (size, tasks, place in the network, data flow) is taken from the other
    network, if that is given.

    :param to: a ranking of the other network, of which only that is taken and not its order.
    :param renamings: the first one that fits a name changes it.
    :param tasks: of the other network; None for those of `to`.
    :raises ReconError: if a renaming fits no layer, two layers come to one name, none is in the other network, or the
        tasks are given twice.
    """
    names = _renamed(ranking, renamings)
    if to is None:
        layers = tuple(
            RankedLayer(
                name=names[layer.name],
                score=layer.score,
                aliases=tuple(_new_name(alias, renamings) for alias in layer.aliases),
            )
            for layer in ranking.layers
        )
        return Transfer(_with(ranking, layers, tasks=tasks), (), ())
    if tasks is not None:
        raise ReconError("--tasks is given beside --to, which tells the tasks of the network", "leave one of them out")
    known = {name: layer for layer in to.layers for name in (layer.name, *layer.aliases)}
    found: dict[str, RankedLayer] = {}
    for layer in ranking.layers:
        own = known.get(names[layer.name])
        if own is not None and own.name not in found:
            found[own.name] = _placed(own, layer.score)
    if not found:
        first = names[ranking.layers[0].name]
        raise ReconError(
            f"the other network has none of the ranking's layers, such as {quoted(first)}",
            did_you_mean(first, known) or "say with --rename what its layers are called",
        )
    positions = {layer.name: layer.position for layer in found.values()}
    order = {name: place for place, name in enumerate(sorted(found, key=lambda name: positions[name] or 0), start=1)}
    layers = tuple(
        layer.model_copy(update={"position": None if layer.position is None else order[layer.name]})
        for layer in found.values()
    )
    return Transfer(
        _with(ranking, layers, tasks=to.tasks, flow=to.flow),
        left_out=tuple(layer.name for layer in ranking.layers if names[layer.name] not in known),
        unplaced=tuple(layer.name for layer in to.layers if layer.name not in found),
    )


def _renamed(ranking: Ranking, renamings: Sequence[Renaming]) -> Mapping[str, str]:
    """For each ranked layer, its name in the other network."""
    for renaming in renamings:
        if not any(renaming.applied(name) for layer in ranking.layers for name in (layer.name, *layer.aliases)):
            raise ReconError(
                f"--rename {quoted(renaming.old)} fits no layer of the ranking",
                did_you_mean(renaming.old, ranking.names),
            )
    names = {layer.name: _new_name(layer.name, renamings) for layer in ranking.layers}
    twice = [old for old, new in names.items() if list(names.values()).count(new) > 1]
    if twice:
        raise ReconError(f"the layers {listed(twice)} would have one name, {quoted(names[twice[0]])}", "mend --rename")
    return names


def _new_name(name: str, renamings: Sequence[Renaming]) -> str:
    return next((new for renaming in renamings if (new := renaming.applied(name)) is not None), name)


def _placed(own: RankedLayer, score: float) -> RankedLayer:
    """A layer of the other network, with the score that it has in the ranking that is taken over."""
    return RankedLayer(
        name=own.name,
        score=score,
        size=own.size,
        bytes=own.bytes,
        aliases=own.aliases,
        parameters=own.parameters,
        tasks=own.tasks,
        position=own.position,
    )


def _with(ranking: Ranking, layers: tuple[RankedLayer, ...], **of_network: object) -> Ranking:
    kept = ("kind", "severity", "z_bound", "stage", "source")
    of_ranking = {name: getattr(ranking, name) for name in kept}
    # The steps were those of other tasks, and what else there is in the network is not known.
    return Ranking.model_validate({**of_ranking, "layers": layers, "iterations": None, "unranked": None, **of_network})
