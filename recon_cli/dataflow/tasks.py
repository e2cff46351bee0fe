"""Which operations of a forward pass are part of which task's stream."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from recon_cli.dataflow.contraction import SeenOperation
from recon_cli.layers.names import layer_of


def assign_tasks(seen: Sequence[SeenOperation], outputs: Sequence[Iterable[int]]) -> None:
    """Say for every operation which tasks it is part of.

    It is part of those whose outputs depend on it. One that moves buffers, though no output depends on it, is part of
    the tasks from whose values alone it is computed; one that is computed from the state alone, such as the counter of
    a BatchNorm, of those that use the layer of that state; and of all tasks if that leaves none.

    :param outputs: for each task, the operations that wrote what it returns.
    """
    for task, writers in enumerate(outputs):
        for index in writers:
            seen[index].tasks |= 1 << task
    for operation in reversed(seen):
        for index in operation.inputs:
            seen[index].tasks |= operation.tasks
    every = (1 << len(outputs)) - 1
    users = _users(seen)
    live = [bool(operation.tasks) for operation in seen]
    for index, operation in enumerate(seen):
        if operation.moves and not live[index]:
            _add_unseen(seen, live, index, _tasks_of_effect(seen, live, index, users) or every)


def _tasks_of_effect(seen: Sequence[SeenOperation], live: Sequence[bool], index: int, users: Mapping[str, int]) -> int:
    sources, _ = _ancestry(seen, live, index)
    if not sources:
        found = 0
        for key in seen[index].moves:
            found |= users.get(layer_of(key), 0)
        return found
    common = -1
    for source in sources:
        common &= seen[source].tasks
    return common


def _add_unseen(seen: Sequence[SeenOperation], live: Sequence[bool], index: int, tasks: int) -> None:
    """Let an operation, and what it alone depends on, be part of some tasks."""
    _, unseen = _ancestry(seen, live, index)
    for each in unseen:
        seen[each].tasks |= tasks


def _ancestry(seen: Sequence[SeenOperation], live: Sequence[bool], index: int) -> tuple[set[int], set[int]]:
    """The nearest operations that outputs depend on, and those before them, itself among them, on which none does."""
    sources: set[int] = set()
    unseen = {index}
    waiting = [index]
    while waiting:
        for source in seen[waiting.pop()].inputs:
            if live[source]:
                sources.add(source)
            elif source not in unseen:
                unseen.add(source)
                waiting.append(source)
    return sources, unseen


def _users(seen: Sequence[SeenOperation]) -> dict[str, int]:
    """For each layer, the tasks whose outputs depend on an operation that reads it."""
    users: dict[str, int] = {}
    for operation in seen:
        for key in operation.reads:
            users[layer_of(key)] = users.get(layer_of(key), 0) | operation.tasks
    return users
