"""Forking an exported program: its graph, its signature and its weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ConstantArgument,
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.fx import GraphModule, Node

from recon_cli.branching.plan import BranchingPlan
from recon_cli.branching.programs.copies import Copies
from recon_cli.branching.programs.graph_fork import GraphFork, fork_graph
from recon_cli.branching.programs.liveness import Ownership
from recon_cli.branching.programs.memory import GraphMemory
from recon_cli.dataflow.exported import tasks_of_leaves
from recon_cli.errors import ReconError, quoted

_STATE = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
_CLEAR = (OutputKind.USER_OUTPUT, OutputKind.BUFFER_MUTATION)


def fork_program(program: ExportedProgram, plan: BranchingPlan) -> ExportedProgram:
    """Split layers of an exported program.

    The new program takes the same inputs, of the same dynamic shapes, and returns outputs of the same form, each
    computed with its own task's copies of the split layers; parts of the output that belong to no task are computed
    with those of the first. What is the same for several tasks is computed once.

    Its state dict has the names of the plan. Tensors of unsplit layers are the given program's own, copies are new;
    what was tied stays tied within a branch. Whether BatchNorm and dropout train stays as it was exported.

    :param plan: of the program's state dict.
    :raises ReconError: if the program's outputs do not fit the tasks, or its graph cannot be forked.
    """
    return _Forking(program, plan).program()


class _Forking:
    def __init__(self, program: ExportedProgram, plan: BranchingPlan) -> None:
        self._source = program
        self._plan = plan
        self._signature = program.graph_signature
        _check_signature(self._signature)
        self._nodes: Mapping[str, Node] = {node.name: node for node in program.graph.nodes}
        self._results: Sequence[Any] = program.graph.output_node().args[0]
        self._owners = tasks_of_leaves(program, plan.tasks)
        self._fork = self._forked()

    def program(self) -> ExportedProgram:
        """The forked program."""
        source, graph = self._source, self._fork.graph
        updates = list(self._updates())
        results = [self._result(value, task) for value, task in self._user_results()]
        output = graph.output((*(value for value, _ in updates), *results))
        output.meta = {key: value for key, value in source.graph.output_node().meta.items() if key != "val"}
        inputs = list(self._input_specs())
        outputs = [
            *(OutputSpec(OutputKind.BUFFER_MUTATION, TensorArgument(value.name), name) for value, name in updates),
            *self._output_specs(results),
        ]
        module = GraphModule(source.graph_module, graph)
        module.meta = dict(source.graph_module.meta)
        entry = source.module_call_graph[0]
        assert entry.signature is not None
        returned = [spec.arg for spec in outputs if spec.kind is OutputKind.USER_OUTPUT]
        return ExportedProgram(
            root=module,
            graph=graph,
            graph_signature=ExportGraphSignature(inputs, outputs),
            state_dict=self._state(),
            range_constraints=dict(source.range_constraints),
            module_call_graph=[replace(entry, signature=replace(entry.signature, outputs=returned))],
            example_inputs=source.example_inputs,
            constants=dict(source.constants),
            verifiers=source.verifiers,
        )

    def _forked(self) -> GraphFork:
        outputs: dict[str, list[Node]] = {task: [] for task in self._plan.tasks}
        for value, task in self._user_results():
            if isinstance(value, Node):
                outputs[task].append(value)
        specs = [spec for spec in self._signature.input_specs if spec.kind in _STATE]
        state = {self._nodes[spec.arg.name]: str(spec.target) for spec in specs}
        ownership = Ownership(
            names=state,
            branches={
                node: {task: split.branch_of(task) for task in self._plan.tasks}
                for node, key in state.items()
                if (split := self._plan.splits.get(key)) is not None
            },
            updates=[(value, self._buffer(spec)) for value, spec in self._results_of(OutputKind.BUFFER_MUTATION)],
        )
        return fork_graph(GraphMemory(self._source.graph), outputs, ownership)

    def _results_of(self, kind: OutputKind) -> list[tuple[Any, OutputSpec]]:
        specs = self._signature.output_specs
        return [(value, spec) for value, spec in zip(self._results, specs, strict=True) if spec.kind is kind]

    def _user_results(self) -> list[tuple[Any, str]]:
        """What the program returns to its caller, and the task of each."""
        values = [value for value, _ in self._results_of(OutputKind.USER_OUTPUT)]
        return list(zip(values, self._owners, strict=True))

    def _result(self, value: Any, task: str) -> Any:
        return self._fork.instances[value, task] if isinstance(value, Node) else value

    def _buffer(self, spec: OutputSpec) -> Node:
        """The input whose new value an output is."""
        inputs = self._signature.input_specs
        name = next(each.arg.name for each in inputs if each.kind is InputKind.BUFFER and each.target == spec.target)
        return self._nodes[name]

    def _updates(self) -> Iterator[tuple[Node, str]]:
        """The new values of buffers, and their names; of one that several streams update in turn, the last stream's."""
        for value, spec in self._results_of(OutputKind.BUFFER_MUTATION):
            assert spec.target is not None
            found: dict[str, Node] = {}
            for task in self._plan.tasks:
                if (value, task) in self._fork.instances:
                    found[self._plan.place(spec.target, task)] = self._fork.instances[value, task]
            yield from ((node, name) for name, node in found.items())

    def _input_specs(self) -> Iterator[InputSpec]:
        for spec in self._signature.input_specs:
            node = self._nodes[spec.arg.name]
            made: dict[str, InputSpec] = {}
            for task in self._plan.tasks:
                copied = self._fork.instances[node, task]
                target = None if spec.target is None else self._plan.place(spec.target, task)
                made.setdefault(copied.name, replace(spec, arg=replace(spec.arg, name=copied.name), target=target))
            yield from made.values()

    def _output_specs(self, results: Sequence[Any]) -> Iterator[OutputSpec]:
        specs = [spec for _, spec in self._results_of(OutputKind.USER_OUTPUT)]
        for value, spec in zip(results, specs, strict=True):
            is_constant = isinstance(spec.arg, ConstantArgument)
            yield spec if is_constant else replace(spec, arg=replace(spec.arg, name=value.name))

    def _state(self) -> dict[str, torch.Tensor]:
        """The state dict: copies are new, and tied as their originals are."""
        copies = Copies()
        state: dict[str, torch.Tensor] = {}
        for key, value in self._source.state_dict.items():
            if key not in self._plan.copies:
                state[key] = value
            for branch, name in self._plan.copies.get(key, {}).items():
                state[name] = copies.of(value, branch)
        return state


def _check_signature(signature: ExportGraphSignature) -> None:
    for spec in signature.output_specs:
        if spec.kind not in _CLEAR:
            raise ReconError(
                f"the program returns {quoted(spec.arg.name)} as {quoted(spec.kind.name)}, which cannot be split",
                "export the network's forward pass, as `torch.export.export` does, so that it leaves its inputs alone",
            )
    for each in signature.input_specs:
        if each.kind is InputKind.TOKEN:
            token = quoted(each.arg.name)
            raise ReconError(f"the program orders its effects by the token {token}, which is not supported")
