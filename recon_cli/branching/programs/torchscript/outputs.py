"""Which part of what a TorchScript module returns belongs to which task, and how parts are put together again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from recon_cli.branching.programs.torchscript.containers import FilledContainers
from recon_cli.branching.programs.torchscript.normalising import ScriptGraph
from recon_cli.branching.programs.torchscript.types import field_names, is_dictionary, is_list, is_tuple
from recon_cli.branching.programs.torchscript.writing import ScriptWriter
from recon_cli.errors import ReconError, quoted
from recon_cli.outputs import output_of


def check_outputs(script: ScriptGraph, tasks: Sequence[str]) -> None:
    """Refuse a graph whose output has no part for a task, as far as that can be told.

    :raises ReconError: saying which, and why.
    """
    kind = script.output.type()
    slots = FilledContainers(script.graph).put_together(script.output)
    if slots is not None:
        owners(kind, [slot.key for slot in slots], tasks)
    elif is_tuple(kind):
        owners(kind, [None] * len(kind.containedTypes()), tasks)
    elif not (is_dictionary(kind) or is_list(kind)):
        what = "one tensor" if kind.kind() == "TensorType" else f"a {quoted(kind.annotation_str)}"
        raise ReconError(
            f"the network returns {what} for {len(tasks)} tasks",
            "return one output per task: a dictionary or named tuple by their names, or a tuple in their order",
        )


def owners(kind: Any, keys: Sequence[str | None], tasks: Sequence[str]) -> list[str]:
    """The task of each part of an output; the first task for what belongs to none.

    :param kind: the output's type.
    :param keys: those of the parts, if it is a dictionary.
    :raises ReconError: if there is no part for a task.
    """
    places = list(range(len(keys)))
    output = dict(zip(keys, places, strict=True)) if is_dictionary(kind) else _as_tuple(kind, places, tasks)
    found = [tasks[0]] * len(places)
    for task in tasks:
        found[output_of(output, tasks, task)] = task
    return found


def joined(writer: ScriptWriter, kind: Any, results: Mapping[str, Any]) -> Any:
    """One output from what was returned in every task's network; what belongs to no task is the first one's.

    :param kind: the type of all of them.
    :param results: for each task, in order, what was returned.
    """
    tasks = tuple(results)
    first = results[tasks[0]]
    if is_tuple(kind):
        kinds = kind.containedTypes()
        parts = {task: writer.take_apart(value, kinds) for task, value in results.items()}
        own = owners(kind, [None] * len(kinds), tasks)
        return writer.gather("prim::TupleConstruct", [parts[task][at] for at, task in enumerate(own)], kind)
    if is_list(kind):
        each = enumerate(results.values())
        values = [writer.apply("aten::__getitem__", value, writer.literal(at)) for at, value in each]
        return writer.gather("prim::ListConstruct", values, kind)
    for task in tasks[1:]:
        name = writer.literal(task)
        writer.apply("aten::_set_item", first, name, writer.apply("aten::__getitem__", results[task], name))
    return first


def _as_tuple(kind: Any, values: list[int], tasks: Sequence[str]) -> object:
    names = field_names(kind)
    if names is None or not set(tasks) <= set(names):
        return tuple(values)
    return SimpleNamespace(**dict(zip(names, values, strict=True)))
