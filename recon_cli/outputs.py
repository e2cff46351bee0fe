"""Where the output of each task stands in whatever a network returns, and how outputs are put together again."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from recon_cli.errors import ReconError, listed, quoted


def output_of(output: Any, tasks: Sequence[str], task: str) -> Any:
    """One task's part of a network's output.

    :param output: a mapping with a key for each task, a tuple or list in the order of the tasks, or a named tuple or
        other object with an attribute for each task.
    :param tasks: all tasks, in order.
    :param task: the task asked for.
    :raises ReconError: if the output has no part for the task.
    """
    if isinstance(output, Mapping):
        if task not in output:
            raise ReconError(
                f"the model's output has no key {quoted(task)} for that task; its keys are {listed(output)}",
                "name the tasks as the model names its outputs",
            )
        return output[task]
    if isinstance(output, (tuple, list)) and not _has_fields(output, tasks):
        if len(output) != len(tasks):
            raise ReconError(f"the model returns {len(output)} outputs for {len(tasks)} tasks")
        return output[list(tasks).index(task)]
    if not hasattr(output, task) or not task.isidentifier():
        raise ReconError(
            f"the model returns a {quoted(type(output).__name__)}, in which task {quoted(task)} has no part",
            "return one output per task: a mapping, a tuple in task order, or an object with attributes",
        )
    return getattr(output, task)


def kept_parts(output: Any, tasks: Sequence[str], task: str) -> list[Any]:
    """What :func:`join_outputs` keeps of the first task's pass: the task's part, and parts that belong to no task."""
    others = set(tasks) - {task}
    if isinstance(output, Mapping):
        return [part for name, part in output.items() if name not in others]
    if _has_fields(output, tasks):
        return [part for name, part in output._asdict().items() if name not in others]
    if isinstance(output, (tuple, list)):
        return [output_of(output, tasks, task)]
    if dataclasses.is_dataclass(output):
        return [getattr(output, field.name) for field in dataclasses.fields(output) if field.name not in others]
    return [part for name, part in vars(output).items() if name not in others]


def join_outputs(outputs: Mapping[str, Any]) -> Any:
    """The output of a whole network, in the form in which the network returns it, from one output per task's pass.

    :param outputs: for each task, in order, what the network returned in that task's pass; only that task's part of it
        is kept. Parts that belong to no task are those of the first pass.
    """
    tasks = tuple(outputs)
    first = outputs[tasks[0]]
    parts = {task: output_of(output, tasks, task) for task, output in outputs.items()}
    try:
        return _with_parts(first, parts)
    except (TypeError, AttributeError) as error:
        raise ReconError(
            f"the model's output, a {quoted(type(first).__name__)}, cannot be put together again: {error}",
            "return a mapping, a tuple or a dataclass",
        ) from error


def _with_parts(output: Any, parts: Mapping[str, Any]) -> Any:
    if isinstance(output, MutableMapping):
        joined = copy.copy(output)
        for task, part in parts.items():
            joined[task] = part
        return joined
    if isinstance(output, Mapping):
        return {**output, **parts}
    if _has_fields(output, tuple(parts)):
        return output._replace(**parts)
    if hasattr(output, "_fields"):
        return type(output)(*parts.values())
    if isinstance(output, (tuple, list)):
        return type(output)(parts.values())
    joined = copy.copy(output)
    for task, part in parts.items():
        # A frozen dataclass refuses plain assignment to what is our own copy.
        object.__setattr__(joined, task, part)
    return joined


def _has_fields(output: Any, tasks: Sequence[str]) -> bool:
    """Whether an output is a named tuple whose fields are called like the tasks; their order does not matter then."""
    return set(tasks) <= set(getattr(output, "_fields", ()))


def items_of(label: Any) -> int:
    """How many items a label is of: the length of its first dimension, and 1 for what has none."""
    shape = getattr(label, "shape", None)
    if shape is not None:
        return int(shape[0]) if len(shape) else 1
    return len(label) if isinstance(label, (tuple, list)) else 1
