"""From scores to a ranking."""

from __future__ import annotations

from recon_cli.artifacts.cosines import Cosines
from recon_cli.artifacts.digests import digest_bytes
from recon_cli.artifacts.ranking import RankedLayer, Ranking, RankingSource
from recon_cli.artifacts.scores import ScoredLayer, Scores
from recon_cli.errors import ReconError, did_you_mean, listed, number, quoted
from recon_cli.ranking.evidence import Measurements
from recon_cli.ranking.intervals import wilson_interval
from recon_cli.ranking.kinds import CONFLICTS, COUPLED, KINDS, ScoreKind, Z
from recon_cli.ranking.trials import independent_trials

DEFAULT_SEVERITY = -0.1
"""The severity that the paper ranks with on Multi-Fashion+MNIST."""
DEFAULT_Z_BOUND = -2.0


def rank(
    scores: Scores,
    severity: float | None = None,
    stage: int | None = None,
    cosines: Cosines | None = None,
    kind: str = CONFLICTS,
) -> Ranking:
    """Rank the shared layers by their score, highest first; by default the S-conflict score (Recon, Definition 3).

    Layers with equal scores keep the order in which the model registers them.

    :param severity: S, in (-1, 0], or for the kind `z` the bound of cos sqrt(d); None for the default of the kind.
    :param stage: the stage to rank by, counted from 1; None for the whole profile.
    :param cosines: those that the scores were counted from; with them, any severity can be counted.
    :param kind: what the score is, one of :data:`recon_cli.ranking.kinds.KINDS`.
    :raises ReconError: if there is no such kind, the scores hold no exact count for the severity, or nothing for the
        stage.
    """
    measurements = measurements_of(scores, severity, stage, cosines, kind)
    evidence = {layer.name: measurements.of(layer) for layer in scores.layers}
    found = {name: KINDS[kind].value(each) + 0.0 for name, each in evidence.items()}
    total = sum(max(score, 0.0) for score in found.values())
    positions = {layer.name: position for position, layer in enumerate(scores.layers, start=1)}
    ranked = []
    for layer in sorted(scores.layers, key=lambda layer: -found[layer.name]):
        score, pairs, rate = found[layer.name], scores.pairs(layer, stage), evidence[layer.name].rate
        trials = _trials(measurements, layer, scores.layer_iterations(layer, stage))
        ranked.append(
            RankedLayer(
                name=layer.name,
                score=score,
                pairs=pairs,
                non_finite=scores.non_finite(layer, stage),
                rate=rate,
                interval=wilson_interval(rate, trials) if pairs else None,
                share=max(score, 0.0) / total if total else 0.0,
                size=layer.size,
                bytes=layer.bytes,
                aliases=layer.aliases,
                parameters=layer.parameters,
                tasks=layer.tasks,
                between=measurements.between(layer),
                position=positions[layer.name],
            )
        )
    return Ranking(
        tasks=scores.tasks,
        kind=kind,
        severity=None if kind == Z else measurements.severity,
        z_bound=measurements.severity if kind == Z else None,
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


def measurements_of(
    scores: Scores, severity: float | None, stage: int | None, cosines: Cosines | None, kind: str
) -> Measurements:
    """What a ranking is made from; the parameters are those of :func:`rank`.

    :raises ReconError: as that does.
    """
    if kind not in KINDS:
        raise ReconError(
            f"there is no score {quoted(kind)}",
            did_you_mean(kind, KINDS) or f"there are {listed(KINDS, len(KINDS))}; see `recon rank --explain`",
        )
    chosen = _severity(KINDS[kind], severity)
    if stage is not None:
        scores.check_stage(stage)
    if not scores.layers:
        raise ReconError("the scores hold no shared layer, so there is nothing to rank")
    if cosines is not None:
        if kind in (Z, COUPLED):
            raise ReconError(f"the score {quoted(kind)} is counted by the profile itself", "leave the cosines out")
        cosines.check_of(scores)
    return Measurements(scores, KINDS[kind], chosen, stage, cosines)


def _severity(kind: ScoreKind, severity: float | None) -> float:
    if kind.name == Z:
        return DEFAULT_Z_BOUND if severity is None else severity
    chosen = DEFAULT_SEVERITY if severity is None else severity
    if not -1 < chosen <= 0:
        raise ReconError(f"the severity {number(chosen)} is not in (-1, 0]")
    # Adding 0 turns a -0.0 into 0.0.
    return chosen + 0.0


def _trials(measurements: Measurements, layer: ScoredLayer, iterations: int) -> float:
    course = measurements.over_time(layer)
    return float(iterations) if course is None else independent_trials(course.below, course.pairs, iterations)
