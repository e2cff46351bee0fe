"""The backward passes of all tasks, one slice of the graph after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.autograd.graph import GradientEdge
from torch.utils.hooks import RemovableHandle

from recon_cli.gradients.graph import Graph, Node
from recon_cli.gradients.routes.memory import RowMemory
from recon_cli.gradients.routes.route import Route
from recon_cli.gradients.slices import Slice, cut

_Edge = tuple[Node, int]
_Gradients = tuple[torch.Tensor | None, ...]


class Passes:
    """Runs the backward passes, and hands the gradients of every target to its route.

    :param graph: what lies behind the losses.
    :param losses: T scalars; None for a task that is not there.
    :param routes: what takes the gradients.
    :param memory: lent to the routes that are complete within a slice.
    :param aim: bytes; see `slices.cut`.
    :param limit: bytes; see `slices.cut`.
    """

    def __init__(
        self,
        graph: Graph,
        losses: Sequence[torch.Tensor | None],
        routes: Sequence[Route],
        memory: RowMemory,
        *,
        aim: int,
        limit: int,
    ) -> None:
        held: dict[Node, int] = {}
        for route in routes:
            for node, size in route.bytes_held().items():
                held[node] = held.get(node, 0) + size
        self._slices = cut(graph, held, aim=aim, limit=limit)
        self._tasks = len(losses)
        self._wanted: list[list[tuple[Route, int]]] = [[] for _ in self._slices]
        self._complete: list[list[Route]] = [[] for _ in self._slices]
        slice_of = {node: number for number, part in enumerate(self._slices) for node in part.nodes}
        for route in routes:
            visited = set()
            for target, sources in enumerate(route.sources):
                numbers = {slice_of[node] for node in sources if node in slice_of}
                for number in numbers:
                    self._wanted[number].append((route, target))
                visited |= numbers
            self._complete[max(visited, default=0)].append(route)
            if len(visited) <= 1:
                route.memory = memory
        # The gradients that wait for the slice of their edge, one for each task.
        self._waiting: dict[_Edge, list[torch.Tensor | None]] = {}
        self._roots = [None if root is None else (root.node, root.output_nr) for root in graph.roots]
        for task, (root, loss) in enumerate(zip(self._roots, losses, strict=True)):
            if root is not None and loss is not None:
                self._hand_on(root, task, torch.ones_like(loss))

    @property
    def completed(self) -> list[list[Route]]:
        """The routes that are complete after each of the slices."""
        return self._complete

    def run(self) -> Iterator[list[Route]]:
        """Run all passes.

        :returns: after every slice, the routes that are complete then.
        """
        below_closed_cut = False
        for part, wanted, complete in zip(self._slices, self._wanted, self._complete, strict=True):
            self._pass(part, wanted, put_back=below_closed_cut)
            below_closed_cut = part.is_closed
            yield complete

    def _pass(self, part: Slice, wanted: Sequence[tuple[Route, int]], *, put_back: bool) -> None:
        inside = set(part.nodes)
        entries = [edge for edge in self._waiting if edge[0] in inside]
        arrived = [self._waiting.pop(edge) for edge in entries]
        targets = [*(route.targets[number] for route, number in wanted), *part.exits]
        if not targets:
            return
        current: dict[_Edge, torch.Tensor] = {}
        handed_on: dict[_Edge, torch.Tensor] = {}
        hooks = [] if part.is_closed else [_stop(exit.node) for exit in part.exits]
        hooks += [_put_back(edge, handed_on) for edge in entries] if put_back else []
        received: dict[int, torch.Tensor | None] = {}
        for number, (route, target) in enumerate(wanted):
            wished = route.targets[target]
            hooks += [_look_on(wished, number, received)] if isinstance(wished, GradientEdge) else []
        try:
            for task in range(self._tasks):
                current.clear()
                received.clear()
                for edge, gradients in zip(entries, arrived, strict=True):
                    gradient, gradients[task] = gradients[task], None
                    if gradient is not None:
                        current[edge] = gradient
                handed_on.clear()
                handed_on.update((edge, gradient) for edge, gradient in current.items() if edge != self._roots[task])
                if current:
                    # Only what a later task still follows is kept.
                    retain = not part.is_closed or bool(part.awaited >> task & 1)
                    found = list(_gradients(current, targets, retain=retain))
                    for number, gradient in received.items():
                        found[number] = gradient
                    self._distribute(task, found, part, wanted)
        finally:
            for hook in hooks:
                hook.remove()

    def _distribute(
        self, task: int, found: list[torch.Tensor | None], part: Slice, wanted: Sequence[tuple[Route, int]]
    ) -> None:
        found.reverse()
        # Handed over one by one, so that no second copy of all gradients stays alive.
        for route, target in wanted:
            gradient = found.pop()
            if gradient is not None:
                route.keep(task, target, gradient)
        for exit in part.exits:
            gradient = found.pop()
            if gradient is not None:
                self._hand_on((exit.node, exit.output_nr), task, gradient)

    def _hand_on(self, edge: _Edge, task: int, gradient: torch.Tensor) -> None:
        gradients = self._waiting.setdefault(edge, [None] * self._tasks)
        known = gradients[task]
        gradients[task] = gradient if known is None else known + gradient


def _gradients(
    entered: dict[_Edge, torch.Tensor], targets: Sequence[torch.Tensor | GradientEdge], *, retain: bool
) -> _Gradients:
    return torch.autograd.grad(
        [GradientEdge(*edge) for edge in entered],
        targets,  # type: ignore[arg-type]
        list(entered.values()),
        retain_graph=retain,
        allow_unused=True,
    )


def _stop(node: Node) -> RemovableHandle:
    """Let nothing flow through a node: a gradient that is not there costs no operations."""
    return node.register_prehook(lambda gradients: (None,) * len(gradients))  # type: ignore[no-any-return]


def _look_on(edge: GradientEdge, number: int, received: dict[int, torch.Tensor | None]) -> RemovableHandle:
    """Note the gradient that an operation receives.

    Autograd itself gives it before the hooks of the tensor have changed it, if the operation has yet to run, and only
    else behind them.
    """

    def note(gradients: _Gradients) -> None:
        received[number] = gradients[edge.output_nr]

    return edge.node.register_prehook(note)


def _put_back(edge: _Edge, handed_on: dict[_Edge, torch.Tensor]) -> RemovableHandle:
    """Undo what the hooks of a tensor do to its gradient when it enters a slice: they did so when it left the last."""

    def restore(gradients: _Gradients) -> _Gradients:
        number = edge[1]
        return (*gradients[:number], handed_on.get(edge, gradients[number]), *gradients[number + 1 :])

    return edge[0].register_prehook(restore)  # type: ignore[no-any-return]
