"""The second way to a branched TorchScript module: every task's pass through the network in full."""

from __future__ import annotations

from typing import Any

from recon_cli.branching.plan import BranchingPlan
from recon_cli.branching.programs.torchscript.normalising import ScriptGraph
from recon_cli.branching.programs.torchscript.outputs import joined
from recon_cli.branching.programs.torchscript.tree import BranchedTree
from recon_cli.branching.programs.torchscript.writing import ScriptWriter
from recon_cli.errors import ReconError, quoted


def repeat_script(source: Any, script: ScriptGraph, plan: BranchingPlan) -> Any:
    """A module that runs the network once for every task, each time with that task's copies of the split layers.

    :param source: a `torch.jit.ScriptModule`, which is left alone.
    :param script: its graph.
    :param plan: of its state dict.
    :raises ReconError: if the network changes inputs that cannot be copied for each pass.
    """
    tree = BranchedTree(source, plan)
    passes = _Passes(script, tree)
    # The caller sees what the last pass writes into the inputs.
    results = {task: passes.written(task, copies=task != plan.tasks[-1]) for task in plan.tasks}
    return passes.writer.finish(joined(passes.writer, script.output.type(), results))


class _Passes:
    def __init__(self, script: ScriptGraph, tree: BranchedTree) -> None:
        self.writer = ScriptWriter(tree)
        self._script = script
        self._tree = tree
        memory = script.graph.alias_db()
        self._changed = [value for value in script.given if memory.has_writers(value)]
        for value in self._changed:
            if value.type().kind() != "TensorType":
                kind = quoted(value.type().annotation_str)
                raise ReconError(f"the network changes its input {quoted(value.debugName())}, a {kind}")
        # What attributes have become in the passes so far.
        self._now: dict[str, Any] = {}

    def written(self, task: str, *, copies: bool) -> Any:
        """What one task's pass returns, after it was written.

        :param copies: whether it works on copies of the inputs that it changes.
        """
        script, writer, places = self._script, self.writer, self._tree.places
        values = {value.unique(): given for value, given in zip(script.given, writer.given, strict=True)}
        values[script.module.unique()] = writer.module("")
        for value in self._changed if copies else ():
            values[value.unique()] = writer.apply("aten::clone", values[value.unique()])
        for name, leaf in script.leaves.items():
            values[leaf.unique()] = self._attribute(name, places.of(name, task), leaf.type())
        for node in script.graph.nodes():
            made = writer.copy(node, lambda value: values[value.unique()])
            values.update(zip((value.unique() for value in node.outputs()), made, strict=True))
        for name, value in script.updates.items():
            place = places.of(name, task)
            self._now[place] = values[value.unique()]
            writer.set(place, self._now[place])
        return values[script.output.unique()]

    def _attribute(self, name: str, place: str, kind: Any) -> Any:
        if name in self._tree:
            return self.writer.module(place)
        return self._now[place] if place in self._now else self.writer.read(place, kind)
