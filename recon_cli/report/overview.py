"""What a report says in words, and the few figures that matter most."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from recon_cli.errors import counted
from recon_cli.report.costs import MadeSplit, dearest_place, first_covering
from recon_cli.report.findings import COVERED, Findings, Stages
from recon_cli.report.layers import Layer
from recon_cli.report.words import enumeration, percent, short, signed

_RUNS_IN_WORDS = 2
_TREND = 0.05
"""From one stage to another, rates that differ by less are called alike."""


@dataclass(frozen=True)
class Key:
    """A figure that matters most, and what it is."""

    value: str
    label: str


def title_of(findings: Findings) -> str:
    """What the report is about."""
    names = findings.task_names
    if not names:
        return "Conflicting gradients"
    return f"Conflicting gradients of {enumeration(names) if len(names) <= 4 else counted(len(names), 'task')}"


def paragraphs_of(findings: Findings) -> tuple[str, ...]:
    """The overview: how often tasks conflict, what a split costs, and what it changed."""
    parts = ((_measured, _as_one, _by_layer), (_concentrated, _made), (_changed, _came_to))
    found = (" ".join(sentence for part in of_one for sentence in part(findings)) for of_one in parts)
    return tuple(paragraph for paragraph in found if paragraph)


def keys_of(findings: Findings) -> tuple[Key, ...]:
    """The figures that matter most."""
    found = []
    if findings.stages and findings.stages.whole is not None:
        label = f"of the pairs conflict on all shared layers as one (cosine below {signed(findings.severity)})"
        found.append(Key(percent(findings.stages.whole), label))
    costs = findings.costs
    if costs and costs.steps[-1].covered > 0:
        k = first_covering(costs, COVERED)
        step = costs.steps[k - 1]
        found.append(Key(f"{k} of {len(costs.steps)}", f"layers hold {percent(COVERED, 0)} of the conflicts"))
        added = percent(step.added_parameters / max(costs.shared_parameters, 1), 2)
        found.append(Key(f"+{added}", "of the shared parameters, to split these for every task"))
        if step.operations is not None:
            found.append(Key(f"{step.operations:.2f} \u00d7", "the operations of the shared network"))
    return tuple(found)


def _measured(findings: Findings) -> Iterator[str]:
    layers, names = len(findings.layers), findings.task_names
    if not layers:
        return
    of = f" that {enumeration(names)} share" if names else ""
    text = f"{counted(layers, 'layer').capitalize()}{of}"
    if findings.stages:
        steps = counted(sum(findings.stages.iterations), "training step")
        stages = len(findings.stages.iterations)
        within = f", in {stages} stages" if stages > 1 else ""
        yield f"{text} {'was' if layers == 1 else 'were'} measured on {steps}{within}."
    else:
        yield f"{text} {'is' if layers == 1 else 'are'} ranked."


def _as_one(findings: Findings) -> Iterator[str]:
    stages = findings.stages
    if not stages or stages.whole is None:
        return
    yield (
        f"Taken as one vector, the gradients of two tasks conflict, with a cosine below {signed(findings.severity)}, "
        f"in {percent(stages.whole)} of all cases{_trend(stages)}."
    )


def _trend(stages: Stages) -> str:
    known = [rate for rate in stages.trunk if rate is not None]
    if len(known) < 2:
        return ""
    first, last = percent(known[0]), percent(known[-1])
    if abs(known[0] - known[-1]) < _TREND:
        return f", and hardly less or more often as training goes on ({first} in the first stage, {last} in the last)"
    return f", {'less' if known[-1] < known[0] else 'more'} as training goes on: from {first} to {last}"


def _by_layer(findings: Findings) -> Iterator[str]:
    known = [layer for layer in findings.layers if layer.whole is not None]
    below = f"a cosine below {signed(findings.severity)}"
    if known and all(layer.whole == 0 for layer in known):
        yield f"On no layer by itself do two tasks' gradients have {below}."
    elif len(known) > 1:
        most, least = max(known, key=_rate), min(known, key=_rate)
        yield (
            f"Layer by layer the share goes from {percent(_rate(least))} ({short(least.name)}) "
            f"to {percent(_rate(most))} ({short(most.name)})."
        )


def _concentrated(findings: Findings) -> Iterator[str]:
    costs = findings.costs
    if not costs or costs.steps[-1].covered <= 0:
        return
    k = first_covering(costs, COVERED)
    step, shared = costs.steps[k - 1], max(costs.shared_parameters, 1)
    whose = "The first layer" if k == 1 else f"The first {k} layers"
    holds = "holds" if k == 1 else "hold"
    text = (
        f"{whose} of the ranking {holds} {percent(step.covered)} of the conflicts and "
        f"{percent(step.split_parameters / shared, 2)} of the shared parameters"
    )
    cost = f"to split {'it' if k == 1 else 'them'} adds {percent(step.added_parameters / shared, 2)} parameters"
    if step.operations is None:
        yield f"{text}; {cost}."
        return
    dearest = dearest_place(costs, k)
    why = f", as {short(findings.layers[dearest - 1].name)} is among them" if dearest and k > 1 else ""
    times = "no operations" if step.operations == 1 else f"takes {step.operations:.2f} times the operations{why}"
    yield f"{text}; {cost} and {times}."


def _made(findings: Findings) -> Iterator[str]:
    for split in findings.splits[:1]:
        covered = "" if split.covered is None else f" with {percent(split.covered)} of the conflicts"
        yield (
            f"The split {short(split.name)} ({short(split.policy)}) is of {counted(split.layers, 'layer')}{covered}: "
            f"{_size(split)}."
        )


def _size(split: MadeSplit) -> str:
    added = percent((split.after - split.before) / max(split.before, 1), 2)
    text = f"{added} more parameters"
    return text if split.operations is None else f"{text} and {split.operations:.2f} times the operations"


def _changed(findings: Findings) -> Iterator[str]:
    if not findings.changes:
        return
    first, *others = findings.changes.runs
    for run in others[:_RUNS_IN_WORDS]:
        if run.reduction is None or run.reduction_low is None or run.reduction_high is None:
            continue
        more = run.reduction < 0
        ends = (-run.reduction_high, -run.reduction_low) if more else (run.reduction_low, run.reduction_high)
        interval = f"{ends[0]:.1f} to {ends[1]:.1f}".replace("-", "\u2212")
        much = f"{abs(run.reduction):.1f}% {'more' if more else 'fewer'}" if run.reduction else "neither more nor fewer"
        yield (
            f"{short(run.name)} has {much} cosines below {signed(findings.changes.bound)} than {short(first.name)} "
            f"(95% interval {interval}%)."
        )


def _came_to(findings: Findings) -> Iterator[str]:
    if not findings.outcomes:
        return
    first, *others = findings.outcomes.runs
    for run in others[:_RUNS_IN_WORDS]:
        if run.improvement is None:
            continue
        mean, deviation = run.improvement.mean, run.improvement.deviation
        spread = "" if deviation is None else f" \u00b1 {deviation:.2f}"
        doubt = " (within the spread of the seeds)" if deviation is not None and abs(mean) <= deviation else ""
        yield (
            f"The figures of {short(run.name)} are {abs(mean):.2f}%{spread} {'better' if mean > 0 else 'worse'} "
            f"than those of {short(first.name)}{doubt}."
        )


def _rate(layer: Layer) -> float:
    return layer.whole or 0.0
