"""What a report is made of: the documents that were given, by what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recon_cli.artifacts.conflict_comparison import ConflictComparison
from recon_cli.artifacts.document import Document, name_of, read_json
from recon_cli.artifacts.manifest import Manifest, SplitPlan
from recon_cli.artifacts.ranking import Ranking
from recon_cli.artifacts.result_comparison import ResultComparison
from recon_cli.artifacts.run import RunReport
from recon_cli.artifacts.scores import Scores
from recon_cli.artifacts.training import Results
from recon_cli.conflicts.runs import Run as ConflictRun
from recon_cli.errors import ReconError, listed, quoted
from recon_cli.ranking.reading import NamedRanking
from recon_cli.report.files import sources_of
from recon_cli.results.runs import Run as ResultRun

_SHOWN: tuple[type[Document], ...] = (
    Scores, Ranking, Manifest, SplitPlan, Results, ResultComparison, ConflictComparison, RunReport,
)  # fmt: skip
_KINDS = {kind.SCHEMA: kind for kind in _SHOWN}


@dataclass(frozen=True)
class NamedSplit:
    """What a split did or would do, and what it is called."""

    name: str
    split: Manifest | SplitPlan


@dataclass(frozen=True)
class Materials:
    """The documents of a report.

    :ivar profile: the scores that it is about.
    :ivar runs: training runs that were measured, the first of which is what the others are compared with.
    :ivar results: what ways of training came to; again the others are compared with the first.
    :ivar files: all files that were read.
    :ivar more_seeds: of how many further seeds a training in a folder was measured; only its first is among the `runs`.
    """

    profile: Scores | None
    runs: tuple[ConflictRun, ...]
    rankings: tuple[NamedRanking, ...]
    splits: tuple[NamedSplit, ...]
    results: tuple[ResultRun, ...]
    compared_results: ResultComparison | None
    compared_conflicts: ConflictComparison | None
    files: tuple[Path, ...]
    more_seeds: int = 0


def read_materials(paths: Sequence[Path]) -> Materials:
    """Read the documents of a report.

    :param paths: files, once `-` for standard input, and folders that `recon run` or `recon train` wrote to.
    :raises ReconError: if one of them cannot be read, or is nothing that a report shows.
    """
    sources = sources_of(paths)
    read = [(source, _read(source.path)) for source in sources]
    measured = [(source, ConflictRun(source.name, each)) for source, each in read if isinstance(each, Scores)]
    # Of several, the first is what the report is about.
    profile = next((run for source, run in measured if source.is_profile), measured[0][1] if measured else None)
    of_profile = any(source.is_profile for source, _ in measured)
    runs = [run for _, run in measured if not (of_profile and run is profile)]
    results = [ResultRun(source.name, each) for source, each in read if isinstance(each, Results)]
    reports = [each for _, each in read if isinstance(each, RunReport)]
    compared = [each for _, each in read if isinstance(each, ResultComparison)] + [each.results for each in reports]
    conflicts = [each for _, each in read if isinstance(each, ConflictComparison)]
    conflicts += [each.conflicts for each in reports if each.conflicts is not None]
    order = {run.name: place for each in compared for place, run in enumerate(each.runs)}
    return Materials(
        profile=None if profile is None else profile.scores,
        runs=tuple(sorted(runs, key=lambda run: order.get(run.name, 0))),
        rankings=tuple(NamedRanking(source.name, each) for source, each in read if isinstance(each, Ranking)),
        splits=tuple(NamedSplit(source.name, each) for source, each in read if isinstance(each, (Manifest, SplitPlan))),
        results=tuple(results),
        compared_results=_the_only(compared, "comparisons of results"),
        compared_conflicts=_the_only(conflicts, "comparisons of conflicts"),
        files=tuple(source.path for source in sources),
        more_seeds=max(source.more_seeds for source in sources),
    )


def _read(path: Path) -> Document:
    content, what = read_json(path), name_of(path)
    if not isinstance(content, dict) or not content:
        raise ReconError(f"{what} is JSON, but no document of Recon")
    if "schema" not in content:
        # The authors' plain rankings name none.
        return Ranking.from_content(content, what)
    schema = content["schema"]
    if not isinstance(schema, str) or schema not in _KINDS:
        raise ReconError(
            f"{what} has the schema {quoted(schema)}, of which a report shows nothing",
            f"it shows {listed(_KINDS, limit=len(_KINDS))}",
        )
    return _KINDS[schema].from_content(content, what)


def _the_only(documents: Sequence[Any], what: str) -> Any:
    if len(documents) > 1:
        raise ReconError(f"{len(documents)} {what} are given, but a report shows one", "leave the others out")
    return documents[0] if documents else None
