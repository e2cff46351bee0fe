"""How the cosines of the task gradients are distributed in several runs (Recon, Tables 6 and 8 to 10)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from recon_cli.artifacts.conflict_comparison import ComparedRun, ConflictComparison, Mass
from recon_cli.artifacts.digests import digest_bytes
from recon_cli.artifacts.scores import BIN_WIDTH, ScoredLayer, edge_index
from recon_cli.conflicts.runs import Run
from recon_cli.errors import ReconError, counted, did_you_mean, lacking, listed, number, quoted
from recon_cli.ranking.intervals import ratio_interval, wilson_interval


def reduction_percent(mass: float, baseline: float) -> float:
    """By how much conflicts were reduced, in percent; below 0 where there are more of them (Recon, Table 6).

    :param mass: the share of cosines below a bound.
    :param baseline: that of the run that it is compared with, above 0.
    """
    return 100 * (1 - mass / baseline)


def parse_edges(text: str) -> tuple[float, ...]:
    """The numbers of a list such as `0,-0.01,-0.02`.

    :raises ReconError: if one of them is no number.
    """
    edges = []
    for part in text.split(","):
        try:
            edges.append(float(part))
        except ValueError:
            raise ReconError(f"--edges {text}: {quoted(part)} is no number", "write them as 0,-0.01,-0.02") from None
    return tuple(edges)


def compare_conflicts(
    runs: Sequence[Run], *, edges: Sequence[float], bound: float, layer: str | None = None, stage: int | None = None
) -> ConflictComparison:
    """Compare how the cosines of the task gradients are distributed, and by how much conflicts were reduced.

    :param runs: two or more; the others are compared with the first.
    :param edges: where one interval of cosines ends and the next begins, in (-1, 1), in any order.
    :param bound: the cosines strictly below it are the conflicts that may be reduced, in (-1, 0].
    :param layer: the name of a shared layer; None for the gradients of all of them as one vector.
    :param stage: a stage, counted from 1; None for the whole profile.
    :raises ReconError: if a number is no edge of the histogram, or the runs cannot be compared.
    """
    if not -1 < bound <= 0 or edge_index(bound) is None:
        raise _no_edge("--bound", bound, "(-1, 0]")
    for edge in edges:
        if not -1 < edge < 1 or edge_index(edge) is None:
            raise _no_edge("--edges", edge, "(-1, 1)")
    falling = sorted((edge + 0.0 for edge in edges), reverse=True)
    for edge, other in pairwise(falling):
        if edge == other:
            raise ReconError(f"--edges holds {number(edge)} twice")
    _check_comparable(runs, stage)
    first, *others = (_distribution(run, falling, bound, layer, stage) for run in runs)
    return ConflictComparison(
        tasks=runs[0].scores.tasks,
        layer=layer,
        stage=stage,
        edges=tuple(falling),
        bound=bound + 0.0,
        runs=(first, *(_reduced(run, first) for run in others)),
    )


def _distribution(run: Run, edges: Sequence[float], bound: float, name: str | None, stage: int | None) -> ComparedRun:
    """How the cosines of a run are distributed, compared with no other.

    :param edges: falling.
    :param name: of a layer, or None for all of them as one vector.
    """
    scores, layer = run.scores, _layer(run, name)
    pairs, non_finite = scores.pairs(layer, stage), scores.non_finite(layer, stage)
    iterations, gds = scores.layer_iterations(layer, stage), scores.gds(layer, stage)
    if gds is None:
        raise ReconError(
            f"in {quoted(run.name)} no pair of tasks was measured on "
            f"{'all shared layers' if name is None else f'layer {quoted(name)}'}",
            f"{counted(non_finite, 'pair')} held NaN or an infinity" if non_finite else None,
        )

    def below(cosine: float) -> int:
        index = edge_index(cosine)
        assert index is not None
        return scores.below(layer, index, stage)

    def mass(count: int) -> Mass:
        share = count / pairs
        return Mass(count=count, share=share, confidence=wilson_interval(share, iterations))

    reached = [pairs, *(below(edge) for edge in edges), 0]
    return ComparedRun(
        name=run.name,
        scores_digest=digest_bytes(scores.to_bytes()),
        complete=scores.complete,
        iterations=iterations,
        pairs=pairs,
        non_finite=non_finite,
        masses=tuple(mass(upper - lower) for upper, lower in pairwise(reached)),
        below=mass(below(bound)),
        gds=gds,
        reduction_percent=None,
        reduction_confidence=None,
    )


def _reduced(run: ComparedRun, first: ComparedRun) -> ComparedRun:
    """A run compared with the first, if that has anything to reduce."""
    mass, baseline = run.below.share, first.below.share
    if baseline == 0:
        return run
    least, most = ratio_interval(mass, run.iterations, baseline, first.iterations)
    return run.model_copy(
        update={
            "reduction_percent": reduction_percent(mass, baseline),
            "reduction_confidence": (100 * (1 - most), 100 * (1 - least)),
        }
    )


def _layer(run: Run, name: str | None) -> ScoredLayer | None:
    if name is None:
        return None
    known = {layer.name: layer for layer in run.scores.layers}
    if name not in known:
        raise ReconError(
            f"in {quoted(run.name)} the tasks share no layer {quoted(name)}",
            did_you_mean(name, known) or f"they share {listed(known)}",
        )
    return known[name]


def _check_comparable(runs: Sequence[Run], stage: int | None) -> None:
    first = runs[0]
    for run in runs[1:]:
        if difference := lacking(first.name, first.scores.tasks, run.name, run.scores.tasks):
            raise ReconError(f"the runs have different tasks: {difference}", "compare runs of the same tasks")
    if stage is None:
        return
    for run in runs:
        stages, expected = (len(each.scores.stage_iterations) for each in (run, first))
        if stages != expected:
            raise ReconError(
                f"the runs have different stages: {quoted(first.name)} has {expected}, {quoted(run.name)} {stages}",
                "leave --stage out to compare whole profiles",
            )
        try:
            run.scores.check_stage(stage)
        except ReconError as error:
            raise ReconError(f"{quoted(run.name)}: {error.message}", error.hint) from None


def _no_edge(option: str, cosine: float, where: str) -> ReconError:
    return ReconError(
        f"{option} {number(cosine)} is no edge of the histograms, so the cosines below it are not known exactly",
        f"choose a multiple of {BIN_WIDTH:g} in {where}",
    )
