"""Rankings that are to be compared: those in files, and those that scores give."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from recon_cli.artifacts.document import STANDARD_STREAM, name_of, read_json
from recon_cli.artifacts.ranking import Ranking
from recon_cli.artifacts.scores import Scores
from recon_cli.errors import ReconError
from recon_cli.ranking.rank import DEFAULT_SEVERITY, rank


@dataclass(frozen=True)
class NamedRanking:
    """A ranking, and what it is called."""

    name: str
    ranking: Ranking


def read_rankings(paths: Sequence[Path], severity: float | None = None, *, stages: bool = False) -> list[NamedRanking]:
    """Read rankings, or make them from scores.

    :param paths: rankings, plain `{layer: score}` files or scores; one of them may be `-`, standard input.
    :param severity: S to rank scores by; None for the default.
    :param stages: rank scores by each stage in which something was measured, and by the whole profile.
    :raises ReconError: if a file is neither ranking nor scores, or a severity or stages are given without any scores.
    """
    if paths.count(STANDARD_STREAM) > 1:
        raise ReconError("standard input can be read only once, but `-` is given twice")
    contents = [(path, read_json(path)) for path in paths]
    if (severity is not None or stages) and not any(_are_scores(content) for _, content in contents):
        raise ReconError(
            "no scores are given, so there is nothing that --severity and --stages could rank",
            "name the scores files, or leave these options out",
        )
    return [ranking for path, content in contents for ranking in _rankings_of(path, content, severity, stages)]


def _are_scores(content: object) -> bool:
    return isinstance(content, dict) and content.get("schema") == Scores.SCHEMA


def _rankings_of(path: Path, content: object, severity: float | None, stages: bool) -> Iterable[NamedRanking]:
    if not _are_scores(content):
        yield NamedRanking(str(path), Ranking.from_content(content, name_of(path)))
        return
    scores = Scores.from_content(content, name_of(path))
    severity = DEFAULT_SEVERITY if severity is None else severity
    if not stages:
        yield NamedRanking(str(path), rank(scores, severity))
        return
    for stage, iterations in enumerate(scores.stage_iterations, start=1):
        if iterations:
            yield NamedRanking(f"{path}, stage {stage}", rank(scores, severity, stage))
    yield NamedRanking(f"{path}, whole profile", rank(scores, severity))
