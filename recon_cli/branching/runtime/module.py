"""The branched network as a module: a view of the user's own network for every task, under one tree of names."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from recon_cli.artifacts.manifest import Manifest, SplitPlan
from recon_cli.attributes import Attributes
from recon_cli.branching.manifests import read_record
from recon_cli.branching.plan import BranchingPlan
from recon_cli.branching.runtime.circumstances import OneCode
from recon_cli.branching.runtime.engines import Engine, EngineName, SingleMoves, first_engine
from recon_cli.branching.runtime.equal_calls import EqualCalls, SharedWriteError
from recon_cli.branching.runtime.needless import NeedlessCall
from recon_cli.branching.runtime.parts import find_split_parts
from recon_cli.branching.runtime.planning import plan_for
from recon_cli.branching.runtime.reinitialising import draw_anew
from recon_cli.branching.runtime.tracing import StaleError, TracedNetwork, UntraceableError
from recon_cli.branching.runtime.tree import Bond, Copy, TreeBuilder
from recon_cli.branching.runtime.views import make_views
from recon_cli.errors import ReconError, did_you_mean, listed, quoted
from recon_cli.network_states import Before, Place, uncompiled
from recon_cli.outputs import join_outputs, kept_parts, output_of


def branch(
    model: nn.Module,
    manifest: Manifest | SplitPlan | BranchingPlan | str | os.PathLike[str],
    engine: EngineName = "auto",
    *,
    reinitialise: bool = False,
) -> BranchedModel:
    """Turn a network into a branched one.

    The branched network returns outputs in the form in which `model` does; each task's output is computed with its own
    copies of the split layers, and equals the unsplit network's until the copies are trained apart. Its state dict has
    the names of the branched checkpoint, so `load_state_dict` takes that file as it is.

    The copies start from `model`'s present weights. Tensors are not copied without need: those of unsplit layers and of
    the first branch of every split layer are `model`'s own, so train one of the two networks, not both.

    What is the same for several tasks is computed once: everything before the first split layer, and behind it every
    stream as far as it differs. In the trunk dropout draws one mask, and a BatchNorm updates its running statistics
    once. Behind a split, dropout draws a mask for every stream, and a BatchNorm that stays shared has running
    statistics for every stream where the split says so (`recon split --batchnorm`). Otherwise it is updated by every
    stream in turn; of buffers that are replaced rather than written to, the last stream's remains. With the engine
    `calls`, a region under activation checkpointing, other hooks on saved tensors, or a transform such as
    `torch.func.jvp`, runs once for every task, as does all behind it; so does what the network hooks, hands to numpy,
    or draws without gradients; and what is compiled by itself inside the network runs uncompiled.

    Where the code calls one layer once for every task, as in MTAN, the running statistics of a copy of it are moved by
    the streams of the copy's own tasks alone.

    `branched(x, tasks=["segmentation"])` computes the outputs of these tasks alone, and returns them in a dictionary.
    If the network's own `forward` takes an argument `tasks`, it is handed on instead.

    :param model: any `nn.Module` that returns one output per task: a mapping by task name, a tuple in task order, or an
        object with attributes.
    :param manifest: the manifest or a plan of a split, or the path of one of them or of a branched checkpoint; or what
        :func:`recon_cli.branching_plan` makes.
    :param engine: `graph` runs a fork of the graph that PyTorch's compiler traces; `calls` runs the code once for every
        task, but equal calls once, whatever the code does; `passes` computes everything for every task. `auto` is the
        first of them that is right for the network. :attr:`BranchedModel.engine` says which and why.
    :param reinitialise: whether every copy but the first of a split layer begins anew, as the layer's own
        `reset_parameters` draws it from the global random numbers, layer by layer and branch by branch, instead of
        equal to the first. Weights that are loaded afterwards take the place of these.
    :raises ReconError: if the manifest is of another network, the network cannot be taken apart, or a layer that is to
        begin anew has no `reset_parameters` that sets all of its parameters.
    """
    if isinstance(manifest, (str, os.PathLike)):
        manifest = read_record(Path(manifest))
    plan = manifest if isinstance(manifest, BranchingPlan) else plan_for(model, manifest)
    branched = BranchedModel(model, plan, engine)
    if reinitialise:
        draw_anew(branched, plan)
    return branched


class BranchedModel(nn.Module):
    """A network whose split layers have a copy for each branch; made by :func:`branch`.

    Its tree of names holds every parameter once: `layer.tasks.<branch>.weight` for a split layer, the source's names
    for all others.
    """

    def __init__(self, model: nn.Module, plan: BranchingPlan, engine: EngineName = "auto") -> None:
        super().__init__()
        self._asked = engine
        self._engine = first_engine(engine)
        self._needless: dict[tuple[object, ...], Mapping[str, Mapping[int, NeedlessCall]]] = {}
        self._traced: TracedNetwork | None = None
        self._hands_tasks_on = "tasks" in inspect.signature(model.forward).parameters
        self._has_own_statistics = plan.statistics is not None
        parts = find_split_parts(model, plan)
        # Views stay out of the module tree: their tensors would be listed once more for every task.
        self._views = make_views(model, plan, parts)
        builder = TreeBuilder(plan.tasks, parts, self._views)
        builder.fill(self, model, "")
        self._bonds: dict[str, list[Bond]] = {task: [] for task in plan.tasks}
        for bond in builder.bonds:
            self._bonds[bond.task].append(bond)
        self._buffer_bonds = {
            task: [bond for bond in bonds if bond.registry == "_buffers"] for task, bonds in self._bonds.items()
        }
        self._clones: tuple[tuple[nn.Module, nn.Module], ...] = tuple(builder.clones)
        self._copies: tuple[Copy, ...] = tuple(builder.copies)
        self._one_code: OneCode | None = OneCode(self._views)
        self.training = model.training
        expected = {place for names in plan.places.values() for place in names}
        if strange := set(self.state_dict()) ^ expected:
            names = listed(sorted(strange))
            raise ReconError(f"the model makes its state dict in a way of its own, so it cannot be branched: {names}")

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks, in order."""
        return tuple(self._views)

    @property
    def engine(self) -> Engine:
        """How the network is run, and why."""
        return self._engine

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the tasks' views on the same inputs, and join their outputs.

        :param tasks: the tasks that are wanted; all of them if it is not given.
        :returns: what the network returns; a dictionary of outputs if `tasks` is given.
        :raises ReconError: if a task is unknown, or, with the engine `passes`, if the network changes its input in
            place, which the next task's pass would see.
        """
        asked = None if self._hands_tasks_on else kwargs.pop("tasks", None)
        wanted = self.task_names if asked is None else self._checked(asked)
        output: Any
        if self._engine.name == "graph" and not torch.compiler.is_compiling():
            try:
                output = self._by_graph(wanted, args, kwargs)
            except UntraceableError as error:
                if self._asked == "graph":
                    raise _refused("graph", str(error)) from None
                output = self._by_code(wanted, args, kwargs, joins=asked is None)
                # The code may fail in both ways for a reason that the user mends.
                if error.lasts and self._engine.name == "graph":
                    self._engine = Engine("calls", str(error))
                return output
            return output if asked is None else self._parts(output, wanted)
        return self._by_code(wanted, args, kwargs, joins=asked is None)

    def _by_graph(self, tasks: tuple[str, ...], args: Any, kwargs: Any) -> Any:
        """What the network's forked graph returns.

        :raises UntraceableError: if no graph stands for the network's code.
        """
        self._renew(self.task_names)
        if self._one_code is None or not self._one_code.is_of_these_modules():
            self._one_code, self._traced = OneCode(self._views), None
        doubt = self._one_code.doubt(self.modules())
        if doubt is not None:
            raise UntraceableError(doubt, lasts=False)
        traced = self._traced = self._traced or TracedNetwork(self._views, self._bonds)
        circumstances = (torch.is_grad_enabled(), *self._circumstances(), *_shapes((args, kwargs)))
        has_gradients = torch.is_grad_enabled()
        # As for passes, whose inputs have to count how often they are written to.
        with torch.inference_mode(False), torch.set_grad_enabled(has_gradients):
            args, kwargs = tree_map(_counting, (args, kwargs))
            if traced.knows(circumstances):
                try:
                    return traced.run(tasks, args, kwargs)
                except StaleError:
                    pass
                except Exception as error:
                    if self._asked == "graph":
                        raise
                    # The network's code may have a way out of it, and otherwise it is the one to say what is wrong.
                    raise UntraceableError("one of its operations fails", lasts=False) from error
            before = Before(self)
            try:
                traced.learn(circumstances, args, kwargs)
                before.restore()
                return traced.run(tasks, args, kwargs)
            except StaleError:
                before.restore()
                raise UntraceableError("its code reads what it changes itself") from None
            except BaseException:
                before.restore()
                raise

    def _by_code(self, wanted: tuple[str, ...], args: Any, kwargs: Any, *, joins: bool) -> Any:
        """Run the tasks' passes.

        :param joins: whether the result is what the network returns, or a dictionary of the tasks' parts of it.
        """
        outputs, calls = self._outputs(wanted, args, kwargs)
        joined: Any
        if joins:
            joined = join_outputs(outputs)
        else:
            joined = {task: output_of(outputs[task], self.task_names, task) for task in wanted}
        outputs.clear()
        for key, watched in calls.items():
            self._needless[key] = watched.learned()
        return joined

    def _parts(self, output: Any, tasks: tuple[str, ...]) -> dict[str, Any]:
        return {task: output_of(output, self.task_names, task) for task in tasks}

    def _checked(self, tasks: Sequence[str]) -> tuple[str, ...]:
        tasks = (tasks,) if isinstance(tasks, str) else tuple(tasks)
        if not tasks:
            raise ReconError("no task is asked for", "leave `tasks` out to have all of them")
        for task in tasks:
            if task not in self._views:
                raise ReconError(f"there is no task {quoted(task)}", did_you_mean(task, self._views))
        return tuple(dict.fromkeys(tasks))

    def _outputs(self, tasks: tuple[str, ...], args: Any, kwargs: Any) -> tuple[dict[str, Any], _Learning]:
        """What the network returns in the pass of each task, and what can be learned from the passes."""
        if torch.compiler.is_compiling():
            return self._by_passes(tasks, args, kwargs), {}
        if self._engine.name != "passes":
            before = Before(self)
            try:
                return self._by_calls(tasks, args, kwargs, before)
            except SharedWriteError as error:
                reason = str(error)
                if self._asked == "calls":
                    raise _refused("calls", reason) from None
            before.restore()
            self._engine = Engine("passes", reason)
            warnings.warn(f"the branched model is run once for every task from now on: {reason}", stacklevel=4)
        outputs: dict[str, Any] = {}
        learning: _Learning = {}
        versions = _versions((args, kwargs))
        moves = SingleMoves(Before(self)) if self._has_own_statistics else None
        for task in tasks:
            self._check_inputs(versions, args, kwargs)
            with nullcontext() if moves is None else moves.one_pass():
                found, learned = self._by_calls((task,), args, kwargs, Before(self), is_first=not outputs)
            outputs.update(found)
            learning.update(learned)
        return outputs, learning

    def _by_calls(
        self,
        tasks: tuple[str, ...],
        args: Any,
        kwargs: Any,
        before: Before,
        *,
        is_first: bool = True,
    ) -> tuple[dict[str, Any], _Learning]:
        """Run the passes of tasks; equal calls once, and without what was found to be needless.

        :param before: how it was before the run.
        :param is_first: whether what the first pass returns besides the tasks' outputs is kept.
        """
        key = (tasks, torch.is_grad_enabled(), *self._circumstances(), *_shapes((args, kwargs)))
        needless = self._needless.get(key)
        versions = _versions((args, kwargs))
        calls = self._watched(tasks, needless)
        attributes = Attributes(*self._views.values(), args, kwargs) if needless is None else None
        try:
            outputs = self._run(calls, tasks, args, kwargs, before, is_first=is_first)
        except SharedWriteError:
            if attributes is not None:
                attributes.restore()
            raise
        # Whether it is the network's own error will be seen when nothing is left out.
        except Exception:
            if not needless or not any(needless.values()):
                raise
            before.restore()
            calls, needless = self._watched(tasks, {}), {}
            self._needless[key] = {}
            outputs = self._run(calls, tasks, args, kwargs, before, is_first=is_first)
        if len(self._needless) >= _REMEMBERED:
            self._needless.clear()
        if attributes is not None and attributes.have_changed():
            # Nor could it be begun anew if the network counts its runs.
            self._needless[key] = {}
            return outputs, {}
        # A run that has written to its inputs could not be begun anew.
        return outputs, {key: calls} if needless is None and _versions((args, kwargs)) == versions else {}

    def _run(
        self, calls: EqualCalls, tasks: Sequence[str], args: Any, kwargs: Any, before: Before, *, is_first: bool
    ) -> dict[str, Any]:
        outputs: dict[str, Any] = {}
        replaced: dict[str, list[Place]] = {}
        left: list[Place] = []
        has_gradients = torch.is_grad_enabled()
        # Inference tensors do not count how often they are written to.
        with torch.inference_mode(False), torch.set_grad_enabled(has_gradients), uncompiled():
            args, kwargs = tree_map(_counting, (args, kwargs))
            calls.know((args, kwargs))
            for task in tasks:
                # What a pass puts in a buffer's place is not for the next one.
                before.put_back()

                def run(task: str = task) -> Any:
                    output = self._views[task](*_unpacked(calls.handed(args)), **_unpacked(calls.handed(kwargs)))
                    replaced[task] = [*before.replaced(), *self._loosened(task)]
                    return output

                def part_of(output: Any, task: str) -> Any:
                    return output_of(output, self.task_names, task)

                def kept_of(output: Any, task: str = task) -> list[Any]:
                    keeps_all = is_first and task == tasks[0]
                    return kept_parts(output, self.task_names, task) if keeps_all else [part_of(output, task)]

                def replacing(task: str = task) -> list[torch.Tensor]:
                    return [place.buffer for place in replaced[task] if place.buffer is not None]

                outputs[task] = calls.run_pass(task, run, kept_of, part_of, replacing, self._all_parts)
                left += [place for place in replaced.pop(task) if place.buffer is None or calls.leaves(place.buffer)]
        before.put_back()
        for place in left:
            place.fill()
        return outputs

    def _all_parts(self, output: Any) -> list[Any]:
        return [part for task in self.task_names for part in kept_parts(output, self.task_names, task)]

    def _loosened(self, task: str) -> Iterator[Place]:
        """The places in the tree of the buffers that a view has others of by now; the view is renewed."""
        for bond in self._buffer_bonds[task]:
            found = bond.view[bond.view_name]
            if found is not bond.tree[bond.tree_name]:
                yield Place(bond.tree, bond.tree_name, found)
                bond.renew()

    def _circumstances(self) -> tuple[object, ...]:
        """What else decides which calls a run makes, as far as it is easily seen."""
        hooks = modes = 0
        for module in self.modules():
            hooks += len(module._forward_hooks) + len(module._forward_pre_hooks)
            modes += module.training
        return hooks, modes

    def _watched(self, tasks: Sequence[str], needless: Mapping[str, Mapping[int, NeedlessCall]] | None) -> EqualCalls:
        """What looks at the calls of passes over the views as they are now; of one pass alone, nothing is shared."""
        self._renew(tasks)
        audiences: dict[int, frozenset[str]] = {}
        for part in self._copies:
            for tensor in part.tensors():
                audiences[id(tensor)] = audiences.get(id(tensor), frozenset()) | {part.task}
        trains = any(module.training for module in self.modules())
        # A norm that stays shared, with statistics for every stream, is a whole one in the views alone.
        modules = {id(module): module for module in (*self.modules(), *(clone for _, clone in self._clones))}
        norms = [each for each in modules.values() if each._buffers.get("num_batches_tracked") is not None]
        return EqualCalls(
            tasks,
            audiences,
            self.parameters(),
            self.buffers(),
            takes_back=trains,
            counters={id(norm.num_batches_tracked): id(norm._buffers.get("running_mean")) for norm in norms},
            averages=frozenset(id(norm.running_mean) for norm in norms if getattr(norm, "momentum", 0) is None),
            needless=needless,
        )

    def _by_passes(self, tasks: Sequence[str], args: Any, kwargs: Any) -> dict[str, Any]:
        """Run the passes without looking at their calls."""
        versions = _versions((args, kwargs))
        outputs = {}
        for task in tasks:
            self._check_inputs(versions, args, kwargs)
            self._renew([task])
            outputs[task] = self._views[task](*_unpacked(args), **_unpacked(kwargs))
            self._adopt_buffers(task)
        return outputs

    def _check_inputs(self, versions: list[int], args: Any, kwargs: Any) -> None:
        if _versions((args, kwargs)) != versions:
            raise ReconError(
                "the model changes its input in place, but each task's pass has to see the same input",
                "let it work on a copy: `x = x.clone()`",
            )

    def _renew(self, tasks: Sequence[str]) -> None:
        """Give the views of tasks what the tree holds now; moving, loading and replacing happen there."""
        for node, clone in self._clones:
            clone.training = node.training
        for task in tasks:
            for bond in self._bonds[task]:
                bond.renew()

    def _adopt_buffers(self, task: str) -> None:
        """Take over buffers that a view's pass has replaced rather than written to."""
        for bond in self._buffer_bonds[task]:
            bond.tree[bond.tree_name] = bond.view[bond.view_name]

    def __getstate__(self) -> dict[str, Any]:
        """The state for copies and pickles; what was learned of calls is learned again."""
        return {**vars(self), "_needless": {}, "_one_code": None, "_traced": None}


_REMEMBERED = 16
"""Circumstances, such as shapes of inputs, for which it is remembered which calls are needless."""

_Learning: TypeAlias = "dict[tuple[object, ...], EqualCalls]"


def _shapes(inputs: object) -> tuple[object, ...]:
    return tuple(tuple(leaf.shape) if isinstance(leaf, torch.Tensor) else type(leaf) for leaf in tree_leaves(inputs))


def _refused(engine: str, reason: str) -> ReconError:
    return ReconError(f"the model cannot be run by the engine `{engine}`: {reason}", "leave the engine to `auto`")


def _unpacked(inputs: Any) -> Any:
    """The same inputs in containers of their own, so that a pass may take them apart."""
    return tree_map(lambda leaf: leaf, inputs)


def _counting(leaf: object) -> object:
    """A tensor that counts how often it is written to."""
    return leaf.clone() if isinstance(leaf, torch.Tensor) and leaf.is_inference() else leaf


def _versions(inputs: object) -> list[int]:
    """How often each tensor among the inputs was written to; inference tensors do not count it."""
    leaves = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]
    return [leaf._version for leaf in leaves if not leaf.is_inference()]
