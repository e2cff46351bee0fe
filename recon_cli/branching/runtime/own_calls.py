"""The calls of one task's pass that no other pass shares: which of them the task's output comes from.

The network's code computes every task's output in every pass, and only the pass's own task is kept. A BatchNorm in
another task's head has seen features of this pass by then; what it wrote into its running statistics is taken back. So
is what other tasks' streams wrote into those of this task's copy of a layer, where the layer is called for every task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import TensorWeakRef

from recon_cli.branching.runtime.functions import VALUELESS, is_shaped_by_values, name_of
from recon_cli.branching.runtime.needless import NeededError, NeedlessCall

_Repeat: TypeAlias = "Callable[[torch.Tensor], None]"
"""Writes to a buffer as a call did, from what the buffer holds by then; all else is as the call found it."""


class _Write(NamedTuple):
    """A call that may have written to a buffer, with what the buffer held before.

    :ivar repeat: repeats it; None where nothing was written to the buffer before.
    """

    number: int
    buffer: torch.Tensor
    value: torch.Tensor
    repeat: _Repeat | None = None


class OwnCalls:
    """What each call of a pass was computed from, and what it wrote into the network's buffers.

    :param buffers: the buffers that the pass may write to; none if nothing is taken back.
    :param counters: the id of each buffer that counts the updates of another one -> the id of that one.
    :param copies: the ids of the buffers that not all tasks have; of what moves one of them, each write stays or not.
    :param needless: the calls that are left out, by their numbers.
    :param learns: whether calls are described, so that they can be left out of later runs.
    :ivar undecided: by their ids, the counters that have counted for several tasks what this pass has not moved, with
        the values that they had before.
    """

    def __init__(
        self,
        buffers: Iterable[torch.Tensor] = (),
        needless: Mapping[int, NeedlessCall] | None = None,
        *,
        counters: Mapping[int, int] | None = None,
        copies: Collection[int] = (),
        learns: bool = False,
    ) -> None:
        self._needless = needless or {}
        self._learns = learns
        self._described: dict[int, NeedlessCall] = {}
        self._read: set[int] = set()
        self._live: set[int] | None = None
        self._buffers = {id(buffer): buffer for buffer in buffers}
        self._counters = counters or {}
        self._copies = copies
        self._uses = {buffer: list[int]() for buffer in self._counters.values()}
        self._written: set[int] = set()
        self._returned: set[int] = set()
        self._made_by: dict[int, tuple[TensorWeakRef, int]] = {}
        self._writers: dict[int, int] = {}
        self._parents: list[frozenset[int]] = []
        self._before: list[_Write] = []
        self._tasks: dict[int, frozenset[str]] = {}
        self.undecided: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._is_complete = True
        self._is_traced = True

    def made(self, tensor: torch.Tensor) -> bool:
        """Whether a call of this pass gave the tensor."""
        return self._maker(tensor) is not None

    def found(self, tensor: torch.Tensor) -> None:
        """Note a tensor that no call gave: what it comes from is not known, if it was computed.

        :raises NeededError: if calls are left out, one of which it may come from.
        """
        if self._needless:
            raise NeededError
        self._is_traced = False
        if tensor.grad_fn is not None:
            self._is_complete = False

    def stand_in(self, func: Callable[..., Any], tensors: Sequence[torch.Tensor]) -> tuple[bool, Any]:
        """Whether the next call is left out, and what it gives then.

        :raises NeededError: if it is needed, but one of its arguments is not there.
        """
        if not self._needless:
            return False, None
        call = self._needless.get(len(self._parents))
        if call is not None:
            return True, call.stand_in(func, tensors)
        name = name_of(func)
        if name not in VALUELESS and any(self._maker(tensor) in self._needless for tensor in tensors):
            raise NeededError
        return False, None

    def describe(self, func: Callable[..., Any], tensors: Sequence[torch.Tensor], result: Any) -> None:
        """Note what the last call was."""
        if not self._learns:
            return
        number = len(self._parents) - 1
        results = tensors_in(result)
        is_plain = all(_is_plain(tensor) for tensor in (*tensors, *results))
        if results and is_plain and not is_shaped_by_values(func, tensors):
            self._described[number] = NeedlessCall.of(func, tensors, result)
        elif results or name_of(func) not in VALUELESS:
            # What the network's code makes of values is not seen.
            self._read.add(number)

    def state_before(self, tensors: Sequence[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The buffers among a call's arguments with their values, if it counts or has other arguments."""
        buffers = [tensor for tensor in tensors if id(tensor) in self._buffers]
        if len(buffers) == len(tensors) and not any(id(buffer) in self._counters for buffer in buffers):
            return []
        return [(buffer, buffer.detach().clone()) for buffer in buffers]

    def add(
        self,
        arguments: Sequence[torch.Tensor],
        results: Iterable[torch.Tensor],
        written: Iterable[tuple[torch.Tensor, int]],
        before: Iterable[tuple[torch.Tensor, torch.Tensor]] = (),
        *,
        silent: bool = False,
        tasks: frozenset[str] = frozenset(),
        repeating: Callable[[], _Repeat] | None = None,
    ) -> None:
        """Note a call.

        :param written: the tensors that it is known to have written to, with the memory of each.
        :param before: what `state_before` gave.
        :param silent: whether it may have written to all of these as well.
        :param tasks: the tasks that it was run for, if they are several.
        :param repeating: makes what repeats it, should it have to be repeated.
        """
        number = len(self._parents)
        parents = {self._maker(tensor) for tensor in arguments}
        if self._writers:
            parents |= {self._writers.get(memory_of(tensor)) for tensor in arguments}
        self._parents.append(frozenset(parent for parent in parents if parent is not None))
        for tensor in results:
            self._made_by[id(tensor)] = (TensorWeakRef(tensor), number)
        changed = set()
        for tensor, memory in written:
            changed.add(id(tensor))
            self._writers[memory] = number
            if not before and not self.made(tensor):
                # It is there after the pass.
                self._read.add(number)
        if tasks:
            self._tasks[number] = tasks
        if silent:
            for tensor in arguments:
                if id(tensor) in self._uses:
                    self._uses[id(tensor)].append(number)
        before = [(buffer, value) for buffer, value in before if silent or id(buffer) in changed]
        is_further = any(id(buffer) in self._written and id(buffer) in self._copies for buffer, _ in before)
        repeat = repeating() if repeating is not None and is_further else None
        self._before += [_Write(number, buffer, value, repeat) for buffer, value in before]
        self._written.update(id(buffer) for buffer, _ in before)

    def end(
        self,
        output: Sequence[object],
        output_of: Callable[[str], object],
        is_known: Callable[[torch.Tensor], bool],
        replacing: Sequence[torch.Tensor] = (),
        *,
        returned: Sequence[object] = (),
    ) -> frozenset[int]:
        """End the pass: undo what was written into buffers by calls that the task's output does not come from.

        :param output: what is kept of what the network returned.
        :param output_of: what it returned for a task.
        :param is_known: whether a tensor is the same in several passes.
        :param replacing: the tensors that the pass has put in the places of buffers.
        :param returned: the network's outputs for all tasks.
        :returns: the ids of the buffers in which it has left something, those in their places among them.
        :raises NeededError: if it comes from a call that was left out.
        """
        tensors = []
        for leaf in tree_leaves(output):
            if isinstance(leaf, torch.Tensor):
                tensors.append(leaf)
                if not self.made(leaf) and not is_known(leaf):
                    self.found(leaf)
            elif leaf is not None and not isinstance(leaf, (bool, int, float, complex, str)):
                # It may hold tensors that are not seen.
                self._is_complete = False
        made = [(number, each) for each in replacing if (number := self._maker(each)) is not None]
        writes = [*self._before, *(_Write(number, each, each) for number, each in made)]
        numbers = self._makers(tensors)
        if not numbers or not self._is_complete:
            if self._needless:
                raise NeededError
            return frozenset(id(write.buffer) for write in writes)
        writers = {write.number for write in writes}
        self._returned = self._makers(tensors_in(tree_leaves(returned)))
        self._live = self._sources(numbers)
        self._live |= self._effects(writers - self._live, self._live)
        if not self._live.isdisjoint(self._needless):
            raise NeededError
        live = {frozenset[str](): self._live}
        for tasks in {self._tasks_of(number) for number in writers} - live.keys():
            # What was run for several tasks is for the outputs of all of them.
            live[tasks] = self._sources(self._makers(tensors_in([output_of(task) for task in tasks])))
            live[tasks] |= self._effects(writers - live[tasks], live[tasks])
        used = frozenset(id(write.buffer) for write in writes if write.number in live[self._tasks_of(write.number)])
        self._take_back(used)
        self._take_back_among(used, live)
        self._before.clear()
        return used

    def needless(self) -> Mapping[int, NeedlessCall]:
        """The calls of the pass that may be left out of later runs; for after its outputs have been dropped."""
        if self._live is None or not self._is_traced:
            return {}
        # What is still there was put aside by the network's code.
        kept = {number for reference, number in self._made_by.values() if reference() is not None}
        needed = self._live | self._sources([*self._read, *kept])
        found: dict[int, NeedlessCall] = {}
        for number, call in sorted(self._described.items()):
            # What gave back its argument this time, such as dropout without training, may change it another time.
            if number not in needed and (not call.gives_back or self._parents[number] <= found.keys()):
                found[number] = call
        return found

    def _sources(self, numbers: Iterable[int]) -> set[int]:
        """These calls and all that they were computed from."""
        found: set[int] = set()
        pending = list(numbers)
        while pending:
            number = pending.pop()
            if number not in found:
                found.add(number)
                pending.extend(self._parents[number])
        return found

    def _tasks_of(self, number: int) -> frozenset[str]:
        return self._tasks.get(number, frozenset())

    def _effects(self, writers: Iterable[int], live: set[int]) -> set[int]:
        """Of calls that write into a buffer, those that give nothing to others, as a moving average of live features.

        :returns: these, and what they alone are computed from.
        """
        children = Counter(self._returned)
        for parents in self._parents:
            children.update(parents)
        found: set[int] = set()
        for number in writers:
            if children[number]:
                continue
            chain = {number}
            pending = list(self._parents[number])
            while pending:
                parent = pending.pop()
                if parent not in live:
                    chain.add(parent)
                    pending.extend(self._parents[parent])
            # Another head would use for more what it computes.
            if all(children[parent] == 1 for parent in chain - {number}):
                found |= chain
        return found

    def _take_back(self, used: frozenset[int]) -> None:
        for write in reversed(self._before):
            if self._counters.get(id(write.buffer), id(write.buffer)) in used:
                continue
            if id(write.buffer) in self._counters and self._tasks_of(write.number):
                # Another one of the tasks that it counts for may move what it counts.
                self.undecided[id(write.buffer)] = write.buffer, write.value
            else:
                # As little counted as what it undoes: batch normalisation keeps its buffers for the backward pass.
                write.buffer.data.copy_(write.value)

    def _take_back_among(self, used: frozenset[int], live: Mapping[frozenset[str], set[int]]) -> None:
        """Undo, of the calls that have moved a task's own copy, those that its output does not come from."""
        writes_to: dict[int, list[_Write]] = {}
        for write in self._before:
            if id(write.buffer) in self._copies and self._counters.get(id(write.buffer), id(write.buffer)) in used:
                writes_to.setdefault(id(write.buffer), []).append(write)
        for writes in writes_to.values():
            stays = [self._is_in(live, write) for write in writes]
            if all(stays):
                continue
            first = stays.index(False)
            writes[first].buffer.data.copy_(writes[first].value)
            for write, is_live in zip(writes[first:], stays[first:], strict=True):
                if is_live and write.repeat is not None:
                    write.repeat(write.buffer)

    def _is_in(self, live: Mapping[frozenset[str], set[int]], write: _Write) -> bool:
        """Whether the tasks' outputs come from a call that has written, or from the use that one is counted for."""
        number, tasks = write.number, self._tasks_of(write.number)
        if id(write.buffer) in self._counters:
            uses = self._uses[self._counters[id(write.buffer)]]
            number = next((use for use in uses if use > number), number)
            if self._tasks_of(number) != tasks:
                # It counts for passes that are yet to come.
                return True
        return number in live[tasks]

    def _makers(self, tensors: Sequence[torch.Tensor]) -> set[int]:
        found = {self._maker(tensor) for tensor in tensors} | {self._writers.get(memory_of(t)) for t in tensors}
        return {number for number in found if number is not None}

    def _maker(self, tensor: torch.Tensor) -> int | None:
        found = self._made_by.get(id(tensor))
        return found[1] if found is not None and found[0]() is tensor else None


def repeating(
    func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any], tensors: Iterable[torch.Tensor]
) -> _Repeat:
    """What repeats a call.

    :param tensors: those among its arguments; the code that follows may write to them, but for parameters.
    """
    copies = {id(each): each if isinstance(each, nn.Parameter) else each.detach().clone() for each in tensors}

    def repeat(buffer: torch.Tensor) -> None:
        def given(leaf: object) -> object:
            # As little counted as what is taken back.
            return buffer.data if leaf is buffer else copies.get(id(leaf), leaf)

        with torch.no_grad():
            func(*tree_map(given, args), **tree_map(given, dict(kwargs)))

    return repeat


def tensors_in(*values: object) -> list[torch.Tensor]:
    """The tensors in nested tuples, lists and dictionaries."""
    found: list[torch.Tensor] = []
    _collect(values, found)
    return found


def _collect(values: Iterable[object], found: list[torch.Tensor]) -> None:
    # Every call of the network passes through here, so it is no generator.
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            if value:
                _collect(value, found)
        elif isinstance(value, dict) and value:
            _collect(value.values(), found)


def _is_plain(tensor: torch.Tensor) -> bool:
    return type(tensor) in (torch.Tensor, nn.Parameter) and tensor.layout is torch.strided and not tensor.is_quantized


def memory_of(tensor: torch.Tensor) -> int:
    """What tells whether two tensors lie in the same memory."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):
        # Sparse tensors and the like have no storage.
        return -id(tensor)
