"""The data flow of an exported program, from its graph: no value of it is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Interpreter, Node
from torch.utils._pytree import tree_leaves, tree_map, tree_unflatten

from recon_cli.artifacts.dataflow import Dataflow
from recon_cli.dataflow.contraction import contracted
from recon_cli.dataflow.operations import Operations
from recon_cli.dataflow.recording import Recording
from recon_cli.dataflow.tasks import assign_tasks
from recon_cli.errors import ReconError, describe, quoted
from recon_cli.outputs import output_of


def dataflow_of_program(program: ExportedProgram, tasks: Sequence[str]) -> Dataflow:
    """The data flow of an exported program for inputs of the sizes that it was exported with.

    :param tasks: the tasks, in order; the program returns an output for each, as a network does.
    :raises ReconError: if its outputs do not fit the tasks, or what it does depends on values.
    """
    owners = tasks_of_leaves(program, tasks)
    fake = FakeTensorMode()
    signature = program.graph_signature
    state = {name: fake.from_tensor(value.detach()) for name, value in program.state_dict.items()}
    buffers = {name: state[name] for name in signature.buffers if name in state}
    operations = Operations(state, buffers)
    nodes = _Nodes(program, operations)
    try:
        with fake, torch.no_grad(), Recording(operations):
            results = nodes.run(*_inputs(program, state, fake), enable_io_processing=False)
    # Fake values have no contents, and PyTorch says in many ways that it would need them.
    except Exception as error:
        raise ReconError(f"the operations of the program cannot be counted: {describe(error)}") from error
    returned = []
    for value, spec in zip(results, signature.output_specs, strict=True):
        if spec.kind is OutputKind.BUFFER_MUTATION and isinstance(spec.target, str):
            operations.replace(spec.target, value)
        elif spec.kind is OutputKind.USER_OUTPUT:
            returned.append(value)
    by_task = [[value for value, owner in zip(returned, owners, strict=True) if owner == task] for task in tasks]
    assign_tasks(operations.seen, [operations.writers(values) for values in by_task])
    return contracted(tasks, operations.seen)


def tasks_of_leaves(program: ExportedProgram, tasks: Sequence[str]) -> list[str]:
    """The task of each leaf of a program's output; the first task for what belongs to none.

    :raises ReconError: if the output has no part for a task.
    """
    spec = program.call_spec.out_spec
    assert spec is not None
    output = tree_unflatten(list(range(spec.num_leaves)), spec)
    if isinstance(output, int):
        raise ReconError(
            f"the program returns one tensor for {len(tasks)} tasks",
            "return one output per task: a mapping, a tuple in task order, or an object with attributes",
        )
    owners = [tasks[0]] * spec.num_leaves
    for task in tasks:
        for leaf in tree_leaves(output_of(output, tasks, task)):
            owners[leaf] = task
    return owners


class _Nodes(Interpreter):
    """Runs a graph, each node as one operation."""

    def __init__(self, program: ExportedProgram, operations: Operations) -> None:
        super().__init__(program.graph_module)
        self._operations = operations

    def run_node(self, node: Node) -> Any:
        """Run one node."""
        with self._operations.together():
            return super().run_node(node)


def _inputs(program: ExportedProgram, state: Mapping[str, torch.Tensor], fake: FakeTensorMode) -> Iterator[Any]:
    """What a program's graph is run with: no values, but the types and sizes that it was exported with."""
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    for node, spec in zip(placeholders, program.graph_signature.input_specs, strict=True):
        if spec.kind is InputKind.USER_INPUT:
            yield tree_map(lambda value: _sized(value, fake), node.meta.get("val"))
        elif spec.target in state:
            yield state[spec.target]
        elif isinstance(value := program.constants.get(str(spec.target)), torch.Tensor):
            yield fake.from_tensor(value)
        else:
            raise ReconError(f"its input {quoted(spec.arg.name)} is neither a tensor nor a number")


def _sized(value: Any, fake: FakeTensorMode) -> Any:
    if isinstance(value, torch.Tensor):
        with fake:
            sizes, steps = ([_hint(number) for number in numbers] for numbers in (value.shape, value.stride()))
            return torch.empty_strided(sizes, steps, dtype=value.dtype, device=value.device)
    return _hint(value) if isinstance(value, torch.SymInt) else value


def _hint(number: int | torch.SymInt) -> int:
    """The size that a dynamic one had when the program was exported."""
    return int(number.node.hint) if isinstance(number, torch.SymInt) else number
