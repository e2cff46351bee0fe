"""The documents that Recon's commands write, in a few words each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recon_cli.artifacts.comparison import Comparison
from recon_cli.artifacts.conflict_comparison import ConflictComparison
from recon_cli.artifacts.difference import CheckpointDifference
from recon_cli.artifacts.document import Document, name_of, read_bytes
from recon_cli.artifacts.inspection import InspectedDocument, Inspection
from recon_cli.artifacts.manifest import Manifest, Size, SplitPlan
from recon_cli.artifacts.method import describe
from recon_cli.artifacts.methods import Methods
from recon_cli.artifacts.plain import Extraction, Unsplitting
from recon_cli.artifacts.ranking import Ranking
from recon_cli.artifacts.result_comparison import Improvement, ResultComparison
from recon_cli.artifacts.run import Ledger, RunReport
from recon_cli.artifacts.scores import Scores
from recon_cli.artifacts.search import ExpectedResource, SearchResult
from recon_cli.artifacts.sharing import Sharing
from recon_cli.artifacts.strict_json import parse
from recon_cli.artifacts.tasks import TaskRelations
from recon_cli.artifacts.tradeoff import Tradeoff
from recon_cli.artifacts.training import Evaluation, Figures, Results, Statistic, Statistics, Training
from recon_cli.artifacts.verification import Verification
from recon_cli.errors import ReconError, counted, did_you_mean, listed, number, quoted

Facts = dict[str, str]

_LAYERS_SHOWN = 5

_SHARING: Mapping[Sharing, str] = {
    "per-stream": "a set for every stream",
    "shared": "one set for all tasks",
    "unknown": "one set for all tasks, as it was not known which lie behind a split",
}


def inspect_document(path: Path) -> tuple[int, InspectedDocument]:
    """The size of a document and what it says.

    :param path: its file, or `-` for standard input.
    :raises ReconError: if it is of no schema that is known, or not valid.
    """
    data = read_bytes(path)
    content = parse(data, name_of(path))
    kind = _kind_of(content, name_of(path))
    document = kind.from_content(content, name_of(path))
    return len(data), InspectedDocument.of(document, SUMMARIES[kind](document))


def _kind_of(content: Any, what: str) -> type[Document]:
    if not isinstance(content, dict) or not content:
        raise ReconError(f"{what} is JSON, but no document of Recon")
    if "schema" not in content:
        # The authors of the paper published plain mappings from layers to scores.
        if all(isinstance(score, (int, float)) for score in content.values()):
            return Ranking
        raise ReconError(f"{what} is JSON, but no document of Recon: it names no schema")
    known = {kind.SCHEMA: kind for kind in SUMMARIES}
    schema = content["schema"]
    if not isinstance(schema, str) or schema not in known:
        raise ReconError(
            f"{what} has the schema {quoted(schema)}, which this version of Recon does not know",
            did_you_mean(str(schema), known) or f"it knows {listed(known, limit=len(known))}",
        )
    return known[schema]


def _scores(scores: Scores) -> Facts:
    facts = {
        "tasks": _names(scores.tasks),
        "shared layers": str(len(scores.layers)),
        "other layers": str(len(scores.unranked)),
        "method": describe(scores.method),
        "training steps": f"{scores.steps} of {scores.steps_requested}",
        "measured steps": f"{scores.iterations} of {scores.iterations_requested}, "
        f"in {counted(len(scores.stage_iterations), 'stage')}",
        "complete": _yes(scores.complete),
        **_settled(scores),
        "severities": ", ".join(number(severity) for severity in scores.severities),
        "device": scores.device,
        "made by": f"Recon {scores.versions.recon}, torch {scores.versions.torch}",
    }
    if scores.features:
        facts["features"] = _names([feature.name for feature in scores.features])
    if scores.halves is not None:
        facts["halves of batches"] = f"measured in {counted(scores.halves.iterations, 'step')}"
    return facts


def _settled(scores: Scores) -> Facts:
    settled = scores.settled
    if settled is None:
        return {}
    return {"settled": f"the first {counted(settled.k, 'layer')} below cosine {number(settled.severity)}"}


def _ranking(ranking: Ranking) -> Facts:
    facts = {"tasks": "not named" if ranking.tasks is None else _names(ranking.tasks)}
    if ranking.severity is not None:
        facts["severity"] = number(ranking.severity)
        facts["stage"] = "the whole profile" if ranking.stage is None else str(ranking.stage)
    if ranking.iterations is not None:
        facts["measured steps"] = str(ranking.iterations)
    first = ranking.layers[:_LAYERS_SHOWN]
    return {
        **facts,
        "layers": str(len(ranking.layers)),
        "first layers": ", ".join(f"{layer.name} ({number(layer.score)})" for layer in first),
        "layers with conflicts": str(sum(layer.score > 0 for layer in ranking.layers)),
        "unranked layers": "not known" if ranking.unranked is None else str(len(ranking.unranked)),
    }


def _comparison(comparison: Comparison) -> Facts:
    return {
        "rankings": _names(comparison.rankings),
        "layers": str(comparison.layers),
        "largest distance (Eq. 22)": f"{comparison.largest_distance:.3f}",
        "left out layers": str(len(comparison.left_out)),
    }


def _conflict_comparison(comparison: ConflictComparison) -> Facts:
    reductions = {run.name: run.reduction_percent for run in comparison.runs[1:]}
    return {
        "tasks": _names(comparison.tasks),
        "runs": _names([run.name for run in comparison.runs]),
        "layer": "all shared layers as one" if comparison.layer is None else comparison.layer,
        "stage": "the whole profile" if comparison.stage is None else str(comparison.stage),
        "bound": number(comparison.bound),
        "reductions": ", ".join(
            f"{name} {'not known' if reduction is None else f'{reduction:.2f}%'}"
            for name, reduction in reductions.items()
        ),
    }


def _task_relations(found: TaskRelations) -> Facts:
    groups = found.grouping.groups if found.grouping else ()
    return {
        "tasks": _names(found.tasks),
        "layer": "all shared layers as one" if found.layer is None else found.layer,
        "severity": number(found.severity),
        "measured steps": str(found.iterations),
        "groups": "; ".join(_names(group.tasks) for group in groups) or "none",
    }


def _tradeoff(found: Tradeoff) -> Facts:
    last = found.published[-1]
    return {
        "tasks": _names(found.tasks),
        "parameters of the ranked layers": f"{found.parameters:,}",
        "copies": "one for every task" if found.max_groups is None else f"at most {found.max_groups}",
        "limits": str(len(found.within)),
        "published": f"the first 1 to {last.k} layers",
    }


def _search(found: SearchResult) -> Facts:
    split = [module for module in found.modules if len(module.groups) > 1]
    return {
        "tasks": _names(found.tasks),
        "method": found.method,
        "modules": _names([module.name for module in found.modules]),
        "modules that tasks do not share": _names([module.name for module in split]) or "none",
        "groups of the last module": "; ".join(_names(group) for group in found.modules[-1].groups),
        "training steps": f"{found.steps}, in {counted(len(found.stages), 'stage')}",
        **{f"{each.unit} of the modules": _resource(each) for stage in found.stages if (each := stage.resource)},
        "seed": str(found.seed),
        "device": found.device,
        "made by": f"Recon {found.versions.recon}, torch {found.versions.torch}",
    }


def _resource(resource: ExpectedResource) -> str:
    shared = f"{resource.shared} if all tasks share them"
    expected = resource.expected
    return shared if expected is None else f"{shared}, {expected:.0f} expected of a branching that is drawn"


def _training(training: Training) -> Facts:
    return {
        "tasks": _names(training.tasks),
        "seed": str(training.seed),
        "method": describe(training.method),
        "training steps": f"{training.steps}, in {counted(training.epochs, 'epoch')}",
        "split layers": str(training.split_layers),
        "parameters": f"{training.parameters:,}",
        "last evaluation": _evaluation(training.last),
        f"best by {training.best_by}": _evaluation(training.best),
        "device": training.device,
        "made by": f"Recon {training.versions.recon}, torch {training.versions.torch}",
    }


def _results(results: Results) -> Facts:
    return {
        "tasks": _names(results.tasks),
        "networks": "one for each task" if results.single_task else "one for all tasks",
        "method": describe(results.method),
        "seeds": ", ".join(map(str, results.seeds)),
        "training steps": str(results.steps),
        "split layers": str(results.split_layers),
        "parameters": f"{results.parameters:,}",
        "last evaluation": _means(results.last),
        f"best by {results.best_by}": _means(results.best),
    }


def _result_comparison(comparison: ResultComparison) -> Facts:
    first = comparison.runs[0].name
    facts = {
        "tasks": _names(comparison.tasks),
        "runs": _names([run.name for run in comparison.runs]),
        "evaluation": comparison.which,
        f"improvement over {first}, above 0 is better": ", ".join(
            f"{run.name} {_improvement(run.improvement)}" for run in comparison.runs[1:]
        ),
    }
    if comparison.single_task is not None:
        facts[f"delta m over {comparison.runs[comparison.single_task].name}, above 0 is better"] = ", ".join(
            f"{run.name} {_improvement(run.delta_m)}" for run in comparison.runs
        )
    return facts


def _run(report: RunReport) -> Facts:
    split = report.split
    return {
        "tasks": _names(report.tasks),
        "severity": number(report.severity),
        "split layers": str(len(split.layers)),
        "layers": listed(split.layers, _LAYERS_SHOWN),
        "parameters": f"{split.parameters_before:,}, {split.parameters_after:,} when split",
        "runs": _names([run.name for run in report.results.runs]),
        "improvement by the split, above 0 is better": ", ".join(
            f"{answer.shared} {_percent(answer.improvement)}" for answer in report.answers
        ),
        "conflicts": "not measured in training" if report.conflicts is None else "measured in training",
    }


def _ledger(ledger: Ledger) -> Facts:
    begun = [name for name, entry in ledger.steps.items() if entry.outputs is None]
    return {
        "steps that were made": _names([name for name in ledger.steps if name not in begun]) or "none",
        "steps that were begun": _names(begun) or "none",
    }


def _plan(plan: SplitPlan) -> Facts:
    return {**_split(plan), "to write": f"{plan.output.total:,} bytes"}


def _manifest(manifest: Manifest) -> Facts:
    return {**_split(manifest), "made by": f"Recon {manifest.versions.recon}"}


def _split(document: Manifest | SplitPlan) -> Facts:
    source, conflict = document.source, document.selection.conflict
    return {
        "tasks": _names(document.tasks),
        "source": f"{source.name} ({source.format}), {source.digest}",
        "selection": f"{document.selection.policy} {document.selection.argument}",
        "conflict": "not known" if conflict is None else f"{100 * conflict.removed:.2f}% of the ranking's is removed",
        "split layers": str(len(document.layers)),
        "layers": listed([layer.name for layer in document.layers], _LAYERS_SHOWN),
        "running statistics": _SHARING[document.batchnorm],
        "before": _size(document.sizes.before),
        "after": _size(document.sizes.after),
    }


def _verification(found: Verification) -> Facts:
    return {
        "passed": _yes(found.passed),
        "tensors kept": str(found.kept),
        "copies": str(found.copies),
        "differences": str(len(found.problems)),
    }


def _extraction(found: Extraction) -> Facts:
    return {"task": found.task, **_plain(found)}


def _unsplitting(found: Unsplitting) -> Facts:
    return {"branches": found.method if found.task is None else f"those of {found.task}", **_plain(found)}


def _plain(found: Extraction | Unsplitting) -> Facts:
    return {
        "branched checkpoint": found.checkpoint,
        "files": _names(found.files),
        "tensors": str(found.tensors),
        "tensors kept": str(found.kept),
        "split layers": "not compared" if found.layers is None else str(len(found.layers)),
    }


def _difference(found: CheckpointDifference) -> Facts:
    return {
        "checkpoints": _names([found.a, found.b]),
        "equal": _yes(found.equal),
        "equal tensors": str(found.same),
        "only in the first": str(len(found.only_a)),
        "only in the second": str(len(found.only_b)),
        "other types or shapes": str(len(found.forms)),
        "other values": str(len(found.values)),
    }


def _inspection(inspection: Inspection) -> Facts:
    inner = inspection.checkpoint.format if inspection.checkpoint else "a document"
    return {"file": inspection.name, "format": inner, "refused": _yes(not inspection.passed)}


def _methods(methods: Methods) -> Facts:
    return {
        kind: _names([method.name for method in methods.methods if method.kind == kind])
        for kind in ("manipulation", "balancing")
    }


SUMMARIES: Mapping[type[Document], Callable[[Any], Facts]] = {
    Scores: _scores,
    Ranking: _ranking,
    Comparison: _comparison,
    ConflictComparison: _conflict_comparison,
    TaskRelations: _task_relations,
    Tradeoff: _tradeoff,
    Manifest: _manifest,
    SplitPlan: _plan,
    Verification: _verification,
    Inspection: _inspection,
    Extraction: _extraction,
    Unsplitting: _unsplitting,
    CheckpointDifference: _difference,
    Methods: _methods,
    Training: _training,
    Results: _results,
    ResultComparison: _result_comparison,
    RunReport: _run,
    Ledger: _ledger,
    SearchResult: _search,
}
"""Every kind of document, and what says in words what it holds."""


def _names(names: Sequence[str]) -> str:
    return ", ".join(names)


def _evaluation(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return "none"
    return f"step {evaluation.step}: {_figures(evaluation.figures)}"


def _means(statistics: Statistics) -> str:
    means = {
        task: {name: None if statistic is None else statistic.mean for name, statistic in of_task.items()}
        for task, of_task in statistics.items()
    }
    return _figures(means) if means else "none"


def _figures(figures: Figures) -> str:
    return ", ".join(
        f"{task}/{name} {'not known' if value is None else f'{value:.4g}'}"
        for task, of_task in figures.items()
        for name, value in of_task.items()
    )


def _improvement(improvement: Improvement | None) -> str:
    return _percent(None if improvement is None else improvement.total)


def _percent(statistic: Statistic | None) -> str:
    return "not known" if statistic is None else f"{statistic.mean:+.2f}%"


def _size(size: Size) -> str:
    return f"{size.parameters:,} parameters in {counted(size.tensors, 'tensor')}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
