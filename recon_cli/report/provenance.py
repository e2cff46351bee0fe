"""Where the figures of a report come from, and what is worth knowing about that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from recon_cli.artifacts.digests import digest_bytes
from recon_cli.artifacts.method import describe
from recon_cli.artifacts.ranking import Ranking
from recon_cli.errors import counted
from recon_cli.report.materials import Materials
from recon_cli.report.words import shown, signed


@dataclass(frozen=True)
class Fact:
    """Something that is known of where the figures come from."""

    name: str
    value: str


def facts_of(materials: Materials) -> tuple[Fact, ...]:
    """How the profile was made, and the digests of what was read."""
    return tuple(Fact(name, shown(value)) for name, value in _facts(materials))


def notes_of(materials: Materials, ranking: Ranking | None, severity: float) -> tuple[str, ...]:
    """What is worth knowing about the documents.

    :param severity: S that rates are shown at.
    """
    return tuple(_notes(materials, ranking, severity))


def _facts(materials: Materials) -> Iterator[tuple[str, str]]:
    scores = materials.profile
    if scores:
        yield "tasks", ", ".join(scores.tasks)
        yield "update rule", describe(scores.method)
        yield "training steps", f"{scores.steps:,} of {scores.steps_requested:,}"
        yield "measured steps", f"{scores.iterations:,} of {scores.iterations_requested:,}"
        if scores.seed is not None:
            yield "seed", str(scores.seed)
        yield "device", scores.device
        reasons = Counter(layer.reason for layer in scores.unranked)
        if reasons:
            yield "other layers", ", ".join(f"{number} {reason}" for reason, number in reasons.items())
        yield "made by", f"Recon {scores.versions.recon}, torch {scores.versions.torch}"
        yield "scores", digest_bytes(scores.to_bytes())
        digests = {"config": scores.config_digest, "checkpoint": scores.checkpoint_digest, "model": scores.model_digest}
        yield from ((name, digest) for name, digest in digests.items() if digest is not None)
    sources = dict.fromkeys((each.split.source.name, each.split.source.digest) for each in materials.splits)
    yield from (("split", f"{name}, {digest}") for name, digest in sources)


def _notes(materials: Materials, ranking: Ranking | None, severity: float) -> Iterator[str]:
    scores = materials.profile
    if materials.more_seeds:
        yield (
            "The conflicts in training are those of each network's first seed; those of "
            f"{counted(materials.more_seeds, 'more seed')} were measured as well and are not shown."
        )
    if scores is None:
        return
    if not scores.complete:
        yield f"The profile ended early, after {counted(scores.iterations, 'measured step')}."
    if scores.settled is not None:
        yield (
            f"The profile stopped after {counted(scores.iterations, 'measured step')}, as the first "
            f"{counted(scores.settled.k, 'layer')} below cosine {signed(scores.settled.severity)} had settled."
        )
    left_out = sum(scores.non_finite(layer) for layer in scores.layers)
    if left_out:
        yield f"{counted(left_out, 'pair').capitalize()} of gradients held NaN or an infinity and are not counted."
    if not scores.can_count(severity):
        yield f"The scores hold no exact count for the severity {signed(severity)}, so rates are those of the ranking."
    digest = ranking.source.scores_digest if ranking else None
    if digest is not None and digest != digest_bytes(scores.to_bytes()):
        yield "The ranking was made from other scores than these."
    if severity == 0:
        yield "At severity 0 all rates come to about one half, so the order is mostly noise."
