"""From scores to a ranking."""

from __future__ import annotations

from recon_cli.artifacts.cosines import Cosines
from recon_cli.artifacts.digests import digest_bytes
from recon_cli.artifacts.ranking import RankedLayer, Ranking, RankingSource
from recon_cli.artifacts.scores import Scores
from recon_cli.errors import ReconError, number
from recon_cli.ranking.intervals import wilson_interval

DEFAULT_SEVERITY = -0.1
"""The severity that the paper ranks with on Multi-Fashion+MNIST."""


def rank(
    scores: Scores, severity: float = DEFAULT_SEVERITY, stage: int | None = None, cosines: Cosines | None = None
) -> Ranking:
    """Rank the shared layers by their S-conflict score (Recon, Definition 3), highest first.

    Layers with equal scores keep the order in which the model registers them.

    :param severity: S, in (-1, 0].
    :param stage: the stage to rank by, counted from 1; None for the whole profile.
    :param cosines: those that the scores were counted from; with them, any severity can be counted.
    :raises ReconError: if the scores hold no exact count for the severity, or nothing for the stage.
    """
    if not -1 < severity <= 0:
        raise ReconError(f"the severity {number(severity)} is not in (-1, 0]")
    if stage is not None:
        scores.check_stage(stage)
    if not scores.layers:
        raise ReconError("the scores hold no shared layer, so there is nothing to rank")
    if cosines is None:
        counts = {layer.name: scores.conflicts(layer, severity, stage) for layer in scores.layers}
    else:
        cosines.check_of(scores)
        counts = {layer.name: cosines.conflicts(layer.name, severity, stage) for layer in scores.layers}
    total = sum(counts.values())
    positions = {layer.name: position for position, layer in enumerate(scores.layers, start=1)}
    ranked = []
    for layer in sorted(scores.layers, key=lambda layer: -counts[layer.name]):
        count, pairs = counts[layer.name], scores.pairs(layer, stage)
        rate = count / pairs if pairs else 0.0
        ranked.append(
            RankedLayer(
                name=layer.name,
                score=float(count),
                pairs=pairs,
                non_finite=scores.non_finite(layer, stage),
                rate=rate,
                # Pairs of one iteration depend on each other, successive iterations hardly do.
                interval=wilson_interval(rate, scores.layer_iterations(layer, stage)) if pairs else None,
                share=count / total if total else 0.0,
                size=layer.size,
                bytes=layer.bytes,
                aliases=layer.aliases,
                parameters=layer.parameters,
                tasks=layer.tasks,
                position=positions[layer.name],
            )
        )
    return Ranking(
        tasks=scores.tasks,
        severity=severity + 0.0,
        stage=stage,
        iterations=scores.iterations if stage is None else scores.stage_iterations[stage - 1],
        layers=tuple(ranked),
        unranked=scores.unranked,
        source=RankingSource(
            scores_digest=digest_bytes(scores.to_bytes()),
            config_digest=scores.config_digest,
            checkpoint_digest=scores.checkpoint_digest,
            complete=scores.complete,
        ),
        flow=scores.flow,
    )


def rank_document(
    content: object, source: str, severity: float | None, stage: int | None, cosines: Cosines | None = None
) -> Ranking:
    """Rank what a file holds: scores, or the authors' plain `{layer: score}`, which has one severity only.

    :param content: what the JSON holds.
    :param source: what the document is called in messages.
    :param severity: S, or None for the default.
    :param cosines: those that the scores were counted from, if any severity is to be counted.
    """
    if isinstance(content, dict) and content and "schema" not in content:
        if severity is not None or stage is not None or cosines is not None:
            raise ReconError(
                f"{source} is a plain mapping from layers to scores, so it can only be ranked as it is",
                "leave --severity, --stage and --cosines out",
            )
        return Ranking.from_content(content, source)
    scores = Scores.from_content(content, source)
    return rank(scores, DEFAULT_SEVERITY if severity is None else severity, stage, cosines)
