"""Running the network's graph: PyTorch's compiler traces the code, and what it traced is forked.

The compiler is asked for the graph alone, and for the guards that tell whether it still stands for the code: the mode,
the shapes, every Python value that the code has read. The operations of the forked graph then run as they would have
run in the network, the trunk once, without the network's Python in between.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from types import FunctionType
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node
from torch.utils._pytree import tree_leaves, tree_map

from recon_cli.attributes import Attributes
from recon_cli.branching.programs.graph_fork import fork_graph
from recon_cli.branching.programs.liveness import Ownership
from recon_cli.branching.runtime.circumstances import autocast_kept
from recon_cli.branching.runtime.higher_order import ChosenSavingError, run_as_written
from recon_cli.branching.runtime.observed_memory import ObservedMemory
from recon_cli.branching.runtime.own_calls import tensors_in
from recon_cli.branching.runtime.tree import Bond
from recon_cli.errors import ReconError
from recon_cli.outputs import kept_parts, output_of

Holder: TypeAlias = "tuple[dict[str, object], str]"
"""What holds a tensor: a module's dictionary, and the name in it."""

_MOST_GRAPHS = 8
_MOST_ALIKE = 3
_SETTINGS: Mapping[str, Any] = {
    # It refuses recurrent networks for what its usual backends make of them; here they run as they are.
    "allow_rnn": True,
    # A wrapper for several processes would have the graph cut into pieces.
    "optimize_ddp": False,
    # What is traced is counted here.
    "recompile_limit": _MOST_GRAPHS * (_MOST_ALIKE + 1),
    "error_on_recompile": False,
}
_numbers = itertools.count()


class UntraceableError(Exception):
    """The network's code cannot be run as a graph; the message says why.

    :ivar lasts: whether it will not be possible later.
    """

    def __init__(self, message: str, *, lasts: bool = True) -> None:
        super().__init__(message)
        self.lasts = lasts


class StaleError(Exception):
    """Nothing that was learned stands for the network's code any more."""


@dataclass(frozen=True)
class _Place:
    """Where a tensor of a view lies.

    :ivar path: the name of its module.
    :ivar registry: which of the module's dictionaries holds it.
    """

    path: str
    registry: str
    name: str


class TracedNetwork:
    """The code of a branched network as graphs, one for each of the circumstances that it is run in.

    :param views: the network of each task; the first one's code is traced, and stands for that of all.
    :param bonds: for each task, what its view holds together with the tree of names.
    """

    def __init__(self, views: Mapping[str, nn.Module], bonds: Mapping[str, Sequence[Bond]]) -> None:
        self._views = views
        self._bonds = {
            task: {(id(bond.view_module), bond.registry, bond.view_name): bond for bond in found}
            for task, found in bonds.items()
        }
        self._first = next(iter(views.values()))
        self._traced: Counter[object] = Counter()
        self._graphs: list[_TracedGraph] = []
        self._now = _Now()
        self._learning = threading.RLock()
        # The compiler keeps its backends and what they give, which must not keep the network.
        found = weakref.ref(self)

        def capture(module: GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
            network = found()
            assert network is not None
            return network._capture(module, inputs)

        self._call = torch.compile(_by_itself(_call), backend=capture, fullgraph=True, dynamic=False)

    def knows(self, circumstances: object) -> bool:
        """Whether it was run in such circumstances before."""
        return circumstances in self._traced

    def learn(self, circumstances: object, args: Any, kwargs: Any) -> None:
        """Trace the code, unless what was traced earlier stands for it.

        :param circumstances: in which it is run, as far as they are easily seen.
        :raises UntraceableError: if it cannot be traced, or is traced anew time and again.
        """
        if circumstances not in self._traced and len(self._traced) >= _MOST_GRAPHS:
            raise UntraceableError("it is run on inputs of many different shapes", lasts=False)
        with self._learning:
            attributes = Attributes(self._first, args, kwargs)
            # The compiler may decide to run the code as it is, which may write to its inputs.
            args, kwargs = tree_map(_Copies().of, (args, kwargs))
            try:
                output = self._trial(args, kwargs)
            finally:
                have_changed = attributes.have_changed()
                attributes.restore()
            ran = self._now.ran
            self._traced[circumstances] += ran is None or not ran.is_learned
            if self._traced[circumstances] > _MOST_ALIKE:
                raise UntraceableError("its code reads something that changes from call to call")
            if ran is None:
                raise UntraceableError("the compiler is switched off, or found nothing to compute", lasts=False)
            if not ran.is_learned:
                ran.learn(output, (args, kwargs))
                if have_changed:
                    raise UntraceableError("its code changes attributes, which every task's view has", lasts=False)
                ran.is_learned = True

    def _trial(self, args: Any, kwargs: Any) -> Any:
        """What the network returns when it is run to learn."""
        self._now.begin(())
        try:
            return self._called(args, kwargs)
        # Code that cannot be traced, and code that fails, are told apart when it is run as it is.
        except Exception as error:
            inner = getattr(error, "inner_exception", error)
            if isinstance(inner, UntraceableError):
                raise inner from None
            raise UntraceableError(f"its code cannot be traced: {_first_line(inner)}") from error

    def run(self, tasks: tuple[str, ...], args: Any, kwargs: Any) -> Any:
        """Run the graph.

        :param tasks: the tasks that are wanted; what others have of the output is None.
        :returns: what the network returns.
        :raises StaleError: if the network has to be learned in these circumstances.
        """
        self._now.begin(tasks)
        try:
            output = self._called(args, kwargs)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise StaleError from error
        # The compiler may decide to leave the code of the first view as it is.
        if self._now.ran is None:
            raise StaleError
        return output

    def _called(self, args: Any, kwargs: Any) -> Any:
        with torch._dynamo.config.patch(**_SETTINGS), autocast_kept():
            return self._call(self._first, args, kwargs)

    def _capture(self, module: GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        """What the compiler calls with the graph that it has traced."""
        holders = self._holders_of(module, inputs)
        try:
            run_as_written(module, holders)
        except ChosenSavingError:
            raise UntraceableError("it chooses what a checkpointed region saves") from None
        at = len(self._graphs)
        self._graphs.append(_TracedGraph(module, holders, tuple(self._views)))
        found = weakref.ref(self)

        def run(*values: Any) -> Any:
            network = found()
            assert network is not None
            return network._run(network._graphs[at], values)

        return run

    def _run(self, graph: _TracedGraph, values: Sequence[Any]) -> Sequence[Any]:
        """What the compiled code calls in a graph's place."""
        self._now.ran = graph
        if graph.is_learned:
            return graph.run(self._now.wanted or tuple(self._views), values)
        if self._now.wanted:
            raise StaleError
        return graph.results(values)

    def _holders_of(self, module: GraphModule, inputs: Sequence[Any]) -> dict[Node, tuple[_Place, dict[str, Holder]]]:
        """For each input of a graph that is a tensor of the network: where it lies, and what holds each task's own."""
        places: dict[int, _Place] = {}
        for path, owner in self._first.named_modules():
            for registry in ("_parameters", "_buffers"):
                for name, tensor in vars(owner)[registry].items():
                    places.setdefault(id(tensor), _Place(path, registry, name))
        constants = [getattr(module, str(node.target), None) for node in module.graph.nodes if node.op == "get_attr"]
        if any(id(value) in places for value in constants):
            raise UntraceableError("the compiler is set to keep parameters in what it traces")
        nodes = [node for node in module.graph.nodes if node.op == "placeholder"]
        return {
            node: (places[id(value)], {task: self._holder(task, places[id(value)]) for task in self._views})
            for node, value in zip(nodes, inputs, strict=True)
            if id(value) in places
        }

    def _holder(self, task: str, place: _Place) -> Holder:
        module = self._views[task].get_submodule(place.path)
        bond = self._bonds[task].get((id(module), place.registry, place.name))
        return (vars(module)[place.registry], place.name) if bond is None else (bond.tree, bond.tree_name)


class _Now(threading.local):
    """What a thread's call is about.

    :ivar wanted: the tasks that are wanted; none if it is there to learn.
    :ivar ran: the graph that was run.
    """

    wanted: tuple[str, ...] = ()
    ran: _TracedGraph | None = None

    def begin(self, wanted: tuple[str, ...]) -> None:
        """Begin a call."""
        self.wanted, self.ran = wanted, None


class _TracedGraph:
    """One graph that stands for the network's code in some circumstances, and its forks.

    :param holders: for each input that is a tensor of the network: where it lies, and what holds each task's own.
    """

    def __init__(
        self, module: GraphModule, holders: Mapping[Node, tuple[_Place, dict[str, Holder]]], tasks: tuple[str, ...]
    ) -> None:
        self._module = module
        self._holders = holders
        self._tasks = tasks
        self._inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
        self._memory: ObservedMemory | None = None
        self._given: list[Any] = []
        self._owners: list[tuple[str, ...]] = []
        self._forks: dict[tuple[str, ...], _Fork] = {}
        self.is_learned = False

    def results(self, values: Sequence[Any]) -> Sequence[Any]:
        """What the graph gives, computed on copies of its inputs, of which nothing is forked."""
        if any(_is_transform(node) for node in self._module.graph.nodes):
            raise UntraceableError("it transforms functions, whose levels end with them")
        copies = _Copies()
        self._given = [value for node, value in zip(self._inputs, values, strict=True) if node not in self._holders]
        buffers = [node for node, (place, _) in self._holders.items() if place.registry == "_buffers"]
        self._memory = ObservedMemory(self._module, [copies.of(value) for value in values], buffers)
        return self._memory.results

    def learn(self, output: Any, inputs: Any) -> None:
        """Learn whose each of the graph's results is.

        :param output: what the network returned, in which the results are.
        :param inputs: what it was called with.
        """
        assert self._memory is not None
        results = {id(value): at for at, value in enumerate(self._memory.results)}
        owners: list[dict[str, None]] = [{} for _ in results]
        if isinstance(output, Mapping) and type(output) not in (dict, OrderedDict) and not is_dataclass(output):
            raise UntraceableError(f"the compiler may not make a {type(output).__name__} as its code does")
        parts = {task: [output_of(output, self._tasks, task)] for task in self._tasks}
        first = self._tasks[0]
        parts[first] = [*parts[first], *kept_parts(output, self._tasks, first)]
        given = {id(leaf) for leaf in tree_leaves(inputs)}
        if not given.issuperset(map(id, self._given)):
            raise UntraceableError("it reads a tensor that is no parameter, no buffer and no input")
        self._given = []
        for task, part in parts.items():
            for tensor in tensors_in(part):
                if id(tensor) in results:
                    owners[results[id(tensor)]][task] = None
                elif id(tensor) not in given:
                    raise UntraceableError("it returns a tensor that it has not computed")
        if not all(owners) or len(results) < len(self._memory.results):
            raise UntraceableError("it keeps a tensor that it has computed in an attribute")
        self._owners = [tuple(found) for found in owners]
        self._memory.results = ()

    def run(self, tasks: tuple[str, ...], values: Sequence[Any]) -> list[Any]:
        """What the forked graph gives; None for what belongs to other tasks."""
        if tasks not in self._forks:
            self._forks[tasks] = self._forked(tasks)
        return self._forks[tasks].run(values)

    def _forked(self, tasks: tuple[str, ...]) -> _Fork:
        assert self._memory is not None
        results: Sequence[Node] = self._module.graph.output_node().args[0]  # type: ignore[assignment]
        owned = [tuple(task for task in owners if task in tasks) for owners in self._owners]
        # What moves statistics in the streams of tasks that are not wanted is known as theirs.
        outputs = {
            task: [v for v, own in zip(results, self._owners, strict=True) if task in own] for task in self._tasks
        }
        branches = {node: self._branches(holders, tasks) for node, (_, holders) in self._holders.items()}
        ownership = Ownership(
            names={node: f"{place.path}.{place.name}" for node, (place, _) in self._holders.items()},
            branches={node: found for node, found in branches.items() if len(set(found.values())) > 1},
        )
        try:
            fork = fork_graph(self._memory, outputs, ownership, tasks)
        except ReconError as error:
            raise UntraceableError(error.message) from None
        copies = [node for node in fork.graph.nodes if node.target is torch.ops.aten.clone.default]
        if copies and any(self._memory.acts(node) for node in self._module.graph.nodes):
            raise UntraceableError("it writes to what several tasks share where it may switch gradients off")
        returned = []
        for value, own in zip(results, owned, strict=True):
            found = {fork.instances[value, task] for task in own}
            if len(found) > 1:
                raise UntraceableError("it returns one tensor for several tasks, which have different ones now")
            returned.append(found.pop() if found else None)
        fork.graph.output(returned)
        return _Fork(self._module, fork.graph, self._sources(fork.instances, tasks))

    def _branches(self, holders: Mapping[str, Holder], tasks: Sequence[str]) -> dict[str, str]:
        """Names for the tensors that tasks have in one's place: those that have the same have one name."""
        first: dict[tuple[int, str], str] = {}
        found = {task: (id(holders[task][0]), holders[task][1]) for task in tasks}
        return {task: first.setdefault(holder, str(len(first))) for task, holder in found.items()}

    def _sources(self, instances: Mapping[tuple[Node, str], Node], tasks: Sequence[str]) -> dict[Node, int | Holder]:
        """For each input of a fork, the position of what the graph is given for it, or what holds it."""
        sources: dict[Node, int | Holder] = {}
        for at, node in enumerate(self._inputs):
            for task in tasks:
                holder = self._holders[node][1][task] if node in self._holders else None
                sources.setdefault(instances[node, task], at if holder is None else holder)
        return sources


def _is_transform(node: Node) -> bool:
    module = getattr(node.target, "__module__", None) or ""
    return module.startswith(("torch._functorch", "torch._C._functorch"))


class _Fork:
    """A forked graph as a function of the inputs of the graph that was forked."""

    def __init__(self, root: nn.Module, graph: Graph, sources: Mapping[Node, int | Holder]) -> None:
        self._forward = GraphModule(root, graph).forward
        self._sources = [sources[node] for node in graph.nodes if node.op == "placeholder"]

    def run(self, values: Sequence[Any]) -> list[Any]:
        found: list[Any] = self._forward(
            *(values[source] if isinstance(source, int) else source[0][source[1]] for source in self._sources)
        )
        return found


class _Copies:
    """Copies of tensors, of which those that are one stay one."""

    def __init__(self) -> None:
        self._made: dict[int, torch.Tensor] = {}

    def of(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) not in self._made:
            copied = _copied(value).requires_grad_(value.requires_grad)
            self._made[id(value)] = nn.Parameter(copied, value.requires_grad) if type(value) is nn.Parameter else copied
        return self._made[id(value)]


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    """A copy that lies in its memory as the tensor does, of which the compiler takes note."""
    tensor = tensor.detach()
    copied = tensor.clone()
    if tensor.layout is not torch.strided or copied.stride() == tensor.stride():
        return copied
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.as_strided((extent,), (1,)).clone().as_strided(tensor.shape, tensor.stride())


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _call(network: nn.Module, args: Any, kwargs: Any) -> Any:
    return network(*args, **kwargs)


def _by_itself(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function with code of its own, as the compiler keeps what it has traced with the code."""
    code = function.__code__.replace(co_name=f"{function.__name__}_{next(_numbers)}")
    return FunctionType(code, function.__globals__, code.co_name)
