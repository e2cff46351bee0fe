"""A network's trunk as a chain of modules: each one's result is the only tensor that the next needs."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import fx, nn

from recon_cli.errors import ReconError, did_you_mean, listed, quoted
from recon_cli.experiment.batches import Batch
from recon_cli.layers.discovery import Layer, discover_layers
from recon_cli.layers.names import layer_of
from recon_cli.outputs import output_of
from recon_cli.search.graph import NetworkGraph

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


@dataclass(frozen=True)
class ChainModule:
    """A module of the chain.

    :ivar name: that of the first network module in it, or of one that holds exactly its layers.
    :ivar part: what it does: from the tensor before it, and the network's inputs, to the tensor behind it.
    :ivar layers: the network's layers in it.
    """

    name: str
    part: fx.GraphModule
    layers: tuple[Layer, ...]

    @property
    def size(self) -> int:
        """The number of its parameters."""
        return sum(layer.size for layer in self.layers)


@dataclass(frozen=True)
class Chain:
    """A network, taken apart.

    :ivar signature: how the network is called.
    :ivar before: what comes before the first module: gives the tensor that this takes; it may be None, where the module
        takes the inputs.
    :ivar modules: the chain, P - 1 modules.
    :ivar heads: for each task, what comes behind the last module.
    """

    signature: inspect.Signature
    before: fx.GraphModule
    modules: tuple[ChainModule, ...]
    heads: Mapping[str, fx.GraphModule]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the modules."""
        return tuple(module.name for module in self.modules)


def find_chain(model: nn.Module, tasks: Sequence[str], batch: Batch, names: Sequence[str] | None = None) -> Chain:
    """Find the chain of a network's trunk by its data flow, or between modules that are given.

    Found modules are as small as the data flow allows, but that a normalisation goes with what is before it. So does
    what has no parameters, such as pooling. The trunk ends where the tasks part.

    :param batch: the network runs on it once, and leaves no trace.
    :param names: modules of the network; each begins a module of the chain, which reaches up to the next. What lies
        before the first stays shared by all tasks.
    :raises ReconError: if the network's trunk is no such chain, naming what is in the way.
    """
    graph = NetworkGraph.of(model, batch, names or ())
    outputs = {task: output_of(graph.returned, tasks, task) for task in tasks}
    of_all = set(graph.steps).intersection(*(graph.needed(graph.steps, output) for output in outputs.values()))
    ends = [place + 1 for place in graph.cuts if graph.steps[place] in of_all]
    if not ends:
        raise ReconError("the network's trunk is no chain of modules: nowhere does all data flow through one tensor")
    blocks = [graph.steps[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    states = [[name for node in block for name in graph.states_at(node)] for block in blocks]
    heads = graph.steps[ends[-1] :]
    heads_of = {task: graph.needed(heads, output) for task, output in outputs.items()}
    _check_heads(graph, heads_of.values(), _last_state(states))
    starts = _found_starts(model, states) if names is None else _given_starts(graph, states, names)
    every = discover_layers(model)
    layers = _layers_of(every, graph, heads, states, starts)
    modules = []
    for place, (start, end) in enumerate(zip(starts, [*starts[1:], len(blocks)], strict=True)):
        steps = [node for block in blocks[start:end] for node in block]
        own = layers[place]
        name = _name_of(every, states[start][0], own) if names is None else names[place]
        modules.append(ChainModule(name, graph.part(steps, _last(blocks, start), steps[-1]), own))
    before = [node for block in blocks[: starts[0]] for node in block]
    return Chain(
        graph.signature,
        graph.part(before, None, _last(blocks, starts[0])),
        tuple(modules),
        {task: graph.part(heads_of[task], blocks[-1][-1], output) for task, output in outputs.items()},
    )


def _last(blocks: Sequence[Sequence[fx.Node]], place: int) -> fx.Node | None:
    """What comes out of the block before one."""
    return blocks[place - 1][-1] if place else None


def _found_starts(model: nn.Module, states: Sequence[Sequence[str]]) -> list[int]:
    starts: list[int] = []
    for place, names in enumerate(states):
        is_norm = bool(names) and all(_is_norm(model, name) for name in names)
        if names and not (is_norm and starts):
            starts.append(place)
    if not starts:
        raise ReconError(
            "the network's trunk is no chain of modules: no module with parameters takes and gives one tensor"
        )
    return starts


def _is_norm(model: nn.Module, name: str) -> bool:
    return isinstance(dict(model.named_modules(remove_duplicate=False)).get(name), _NORMS)


def _given_starts(graph: NetworkGraph, states: Sequence[Sequence[str]], names: Sequence[str]) -> list[int]:
    starts: list[int] = []
    known = dict(graph.root.named_modules(remove_duplicate=False))
    for name in names:
        if name not in known:
            raise ReconError(f"`search.chain`: the network has no module {quoted(name)}", did_you_mean(name, known))
        start = next((place for place, own in enumerate(states) if any(_is_in(each, name) for each in own)), None)
        if start is None:
            raise ReconError(
                f"`search.chain`: {quoted(name)} is not in the part of the network that is a chain: it is not run, has "
                f"no parameters, or lies behind {quoted(_last_state(states))}, where the data flow parts"
            )
        first = states[start][0]
        if not _is_in(first, name):
            raise ReconError(
                f"`search.chain`: {quoted(name)} does not begin where all data flows through one tensor; that is "
                f"where {quoted(first)} begins"
            )
        if starts and start <= starts[-1]:
            raise ReconError(f"`search.chain`: {quoted(name)} does not come behind {quoted(names[len(starts) - 1])}")
        starts.append(start)
    return starts


def _last_state(states: Sequence[Sequence[str]]) -> str:
    """The last module of the chain, as messages name it."""
    return next((own[-1] for own in reversed(states) if own), "its inputs")


def _is_in(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def _check_heads(graph: NetworkGraph, heads: Iterable[Sequence[fx.Node]], end: str) -> None:
    """Refuse layers behind the chain that several tasks share: it is not the whole trunk then.

    :param heads: for each task, what it needs behind the chain.
    """
    users: dict[str, int] = {}
    for steps in heads:
        for node in steps:
            for name in graph.states_at(node):
                users[name] = users.get(name, 0) + 1
    shared = [name for name, number in users.items() if number > 1]
    if shared:
        raise ReconError(
            f"the network's trunk is no chain of modules: tasks share {listed(shared)}, but not all of their data "
            f"flows through one tensor behind {quoted(end)}",
            "a search needs a trunk whose modules each take what the one before them gives, and nothing else",
        )


def _layers_of(
    every: Sequence[Layer],
    graph: NetworkGraph,
    heads: Sequence[fx.Node],
    states: Sequence[Sequence[str]],
    starts: Sequence[int],
) -> list[tuple[Layer, ...]]:
    """The layers of each module of the chain.

    :raises ReconError: if one is in two of them, or in one and elsewhere.
    """
    places: dict[str, int] = {}
    for block, names in enumerate(states):
        # 0 stands for what comes before the first module, and one more than there are modules for the heads.
        place = sum(start <= block for start in starts)
        for name in names:
            if places.setdefault(name, place) != place:
                raise _used_twice(name)
    for node in heads:
        for name in graph.states_at(node):
            if places.setdefault(name, len(starts) + 1) <= len(starts):
                raise _used_twice(name)
    found: list[list[Layer]] = [[] for _ in range(len(starts) + 2)]
    for layer in every:
        own = {
            place
            for used, place in places.items()
            for name in (layer.name, *layer.aliases)
            if _is_in(name, used) or layer_of(used) == name
        }
        if len(own) > 1:
            raise _used_twice(layer.name)
        for place in own:
            found[place].append(layer)
    return [tuple(layers) for layers in found[1:-1]]


def _used_twice(name: str) -> ReconError:
    return ReconError(
        f"the network's trunk is no chain of modules: the weights of {quoted(name)} are used at two places of it"
    )


def _name_of(every: Sequence[Layer], first: str, layers: Sequence[Layer]) -> str:
    """The module that holds exactly these layers; the first of them, if there is none."""
    names = {layer.name for layer in layers}
    holder = f"{layers[0].name}." if layers else ""
    while holder := holder.rpartition(".")[0]:
        if names == {layer.name for layer in every if _is_in(layer.name, holder)}:
            return holder
    return first
