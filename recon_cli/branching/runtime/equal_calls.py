"""Running equal calls once: what the passes of several tasks compute alike is computed in the first of them.

The branched network runs once for every task, on that task's copies of the split layers. A call of torch whose function
and arguments are those of a call in an earlier pass gives what that one gave, the very same tensors. So the trunk runs
once, tasks that share a branch part where their branches do, and nothing has to be traced: the passes are ordinary
Python, whatever they decide from data.

A tensor is known by its identity and by how often it was written to, and a call by its function, its arguments, the
modes that it runs under (gradients, autocast), and how many equal calls came before it in the same pass, so that two
draws of dropout stay two. Every tensor has an audience: the tasks in whose passes it is the same. That of a branch's
parameters is the tasks of the branch; of what a call gives, those common to all of its arguments.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MethodWrapperType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from recon_cli.branching.runtime.functions import (
    BACKWARD,
    CONTROL_FLOW,
    OPEN,
    has_hooks_on_saved_tensors,
    is_transformed,
    name_of,
    target_of,
    writes_silently,
)
from recon_cli.branching.runtime.needless import NeededError, NeedlessCall
from recon_cli.branching.runtime.own_calls import OwnCalls, memory_of, repeating, tensors_in
from recon_cli.errors import ReconError
from recon_cli.random_states import cuda_states

Audience = frozenset[str]


class SharedWriteError(Exception):
    """One task's pass writes to memory that the other tasks' passes read; the message says in which way."""


class _NoKeyError(Exception):
    """An argument that cannot be compared with another."""


@dataclass
class _Known:
    """A tensor that several passes have in common; it is kept, so that its identity and its memory stay its own.

    :ivar name: what it is called in the keys of calls; a copy has the name of what it stands for.
    :ivar history: what computes its gradient, as far as the calls of the passes made it.
    :ivar made_by: the call that gave it.
    :ivar made_in: the task in whose pass it was met first; empty if none had it yet, None if it was there before.
    """

    tensor: torch.Tensor
    name: int
    audience: Audience
    memory: int
    history: object
    made_by: _Call | None
    made_in: str | None


@dataclass
class _Call:
    """A call that was run, and that later passes may take for their own.

    :ivar written: the memory that it wrote to.
    :ivar alone: whether later passes have to run it themselves, because what it gave was changed in a way that no call
        tells of, as by `autograd.Function`, which makes the outcome of the calls inside it its own.
    """

    result: Any
    written: tuple[int, ...]
    alone: bool = False


class EqualCalls(TorchFunctionMode):
    """The calls of the passes of one run of a branched network.

    :param tasks: the tasks whose passes are run, in order.
    :param audiences: the id of each tensor that not all tasks have -> those that have it.
    :param parameters: the parameters of the network.
    :param buffers: its buffers; every pass may write to them, and to the parameters.
    :param takes_back: whether what a pass writes into buffers of other tasks' parts of the network is undone.
    :param counters: the id of each buffer that counts the updates of another one -> the id of that one.
    :param averages: the ids of the buffers that are averages over all batches, as their counters count them.
    :param needless: for each task, the calls of its pass that are left out; None if they are to be learned.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        audiences: Mapping[int, Audience],
        parameters: Iterable[torch.Tensor],
        buffers: Iterable[torch.Tensor],
        *,
        takes_back: bool,
        counters: Mapping[int, int],
        averages: frozenset[int],
        needless: Mapping[str, Mapping[int, NeedlessCall]] | None,
    ) -> None:
        super().__init__()
        self._everyone: Audience = frozenset(tasks)
        self._given = audiences
        buffers = tuple(buffers)
        state = (*parameters, *buffers)
        self._state_ids = frozenset(map(id, state))
        self._state = frozenset(map(memory_of, state))
        self._buffers = buffers if takes_back else ()
        self._counters = counters
        self._averages = averages
        # How far an average moves depends on how often it was moved before.
        self._moved_alone = frozenset(id_ for id_ in audiences if counters.get(id_, id_) not in averages)
        self._changed: frozenset[int] = frozenset()
        self._left: frozenset[int] = frozenset()
        self._undecided: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._needless = needless
        self._ended: dict[str, OwnCalls] = {}
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        self._devices = ("cpu",) if found is None else ("cpu", found.type)
        self._calls: dict[object, _Call] = {}
        self._known: dict[int, _Known] = {}
        self._names = itertools.count(-1, -1)
        # What an earlier pass has written to, and what later ones have instead.
        self._copies: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        # A copy takes the place of the memory that it was copied from, which goes by another name from then on.
        self._renamed: dict[int, int] = {}
        self._readers: dict[int, Audience] = {}
        self._written_in_common: Counter[int] = Counter()
        self._writers: dict[int, Audience] = {}
        self._task = ""
        self._has_gradients = False
        self._past: Audience = frozenset()
        # The network's code may catch any exception, but not these.
        self._refused: SharedWriteError | NeededError | None = None
        self._begin("")

    def _begin(self, task: str) -> None:
        self._task = task
        self._own = OwnCalls(
            self._buffers,
            (self._needless or {}).get(task),
            counters=self._counters,
            copies=self._moved_alone,
            learns=self._needless is None,
        )
        self._writes: Counter[int] = Counter()
        self._seen: dict[object, int] = {}
        # Memory of several passes that something of this pass alone is a view of.
        self._viewed: set[int] = set()

    def know(self, inputs: Any) -> None:
        """Take the tensors among a network's inputs for the same in all passes."""
        for tensor in tree_leaves(inputs):
            if isinstance(tensor, torch.Tensor) and id(tensor) not in self._known:
                self._add(tensor, self._everyone, None)

    def run_pass(
        self,
        task: str,
        run: Callable[[], Any],
        kept_of: Callable[[Any], Sequence[object]],
        output_of: Callable[[Any, str], object],
        replacing: Callable[[], Sequence[torch.Tensor]],
        returned_of: Callable[[Any], Sequence[object]],
    ) -> Any:
        """Run the pass of one task.

        :param run: runs the network.
        :param kept_of: what is kept of what the network returns.
        :param output_of: what it returns for a task.
        :param replacing: gives the tensors that the pass has put in the places of buffers.
        :param returned_of: the outputs of all tasks in what it returns.
        :returns: what the network returns.
        :raises SharedWriteError: if the pass writes to what other passes read.
        :raises NeededError: if it needs a call that was left out.
        """
        self._begin(task)
        self._has_gradients = torch.is_grad_enabled()
        try:
            with self:
                output = run()
        # The network's own error may come of a refusal that it has caught.
        except Exception:
            if self._refused is not None:
                raise self._refused from None
            raise
        if self._refused is not None:
            raise self._refused
        changed = self._own.end(
            kept_of(output),
            lambda task: output_of(output, task),
            lambda tensor: id(tensor) in self._known,
            replacing(),
            returned=returned_of(output),
        )
        if not self._averages.isdisjoint(changed & self._changed):
            raise SharedWriteError("it averages over what differs from task to task, and counts the batches once")
        self._left = changed
        self._changed |= changed
        self._ended[task] = self._own
        self._past |= {task}
        self._settle_counters()
        return output

    def _settle_counters(self) -> None:
        """Undo counts of what no pass has moved after all."""
        self._undecided = {**self._own.undecided, **self._undecided}
        if self._past == self._everyone:
            for counter, (buffer, value) in self._undecided.items():
                if self._counters[counter] not in self._changed:
                    buffer.data.copy_(value)

    def leaves(self, tensor: torch.Tensor) -> bool:
        """Whether what the last pass has put in the place of a buffer stays there, and is no other task's."""
        if self._own.made(tensor):
            return id(tensor) in self._left
        known = self._known.get(id(tensor))
        # An earlier pass has decided about what it has made for several tasks.
        return known is None or known.made_by is None or known.audience == self._everyone

    def learned(self) -> dict[str, Mapping[int, NeedlessCall]]:
        """For each task, the calls of its pass that may be left out; for after what the passes returned was dropped."""
        return {task: own.needless() for task, own in self._ended.items()}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run a call, or give what an equal one gave."""
        if torch.compiler.is_compiling():
            # `torch.cond` and the like trace what they are given.
            return func(*args, **(kwargs or {}))
        if func in CONTROL_FLOW and torch.is_grad_enabled():
            # It would not see the parameters that its branches read, and so give them no gradient.
            raise ReconError(
                f"the network uses `torch.{name_of(func)}`, to which engine `calls` or `passes` gives no gradients",
                "leave the engine to `auto` where the network can be traced, or run it under `torch.no_grad()`",
            )
        try:
            return self._call(func, args, kwargs or {})
        except (SharedWriteError, NeededError) as error:
            self._refused = error
            raise

    def _call(self, func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> Any:
        if func in OPEN:
            self._open(func, args[0])
        if isinstance(func, MethodWrapperType) and func.__name__ == "__get__":
            # Shapes, types and devices are asked for very often.
            found = func(*args, **kwargs)
            if not isinstance(found, torch.Tensor):
                return found
        tensors = tensors_in(args, kwargs)
        if func in BACKWARD and len(self._everyone) > 1:
            # Later passes go back through what is shared once more.
            kwargs = {**kwargs, "retain_graph": True}
        audience = self._audience(tensors)
        if len(audience) == 1 or has_hooks_on_saved_tensors() or is_transformed():
            return self._run_alone(func, args, kwargs, tensors, frozenset({self._task}))
        try:
            key = self._key(func, args, kwargs)
        except _NoKeyError:
            return self._run_alone(func, args, kwargs, tensors, frozenset({self._task}))
        call = self._calls.get(key)
        if call is not None and not call.alone:
            result = self.handed(call.result)
            if self._is_as_it_was(result):
                self._writes.update(call.written)
                # Lists are the caller's own.
                return tree_map(lambda leaf: leaf, result) if isinstance(result, (list, dict)) else result
        return self._run_common(key, func, args, kwargs, tensors, audience)

    def _run_alone(
        self, func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any], tensors: list[torch.Tensor], own: Audience
    ) -> Any:
        """Run a call of this pass alone."""
        target = target_of(func, args, kwargs)
        if target is not None and self._is_read_by_others(target, own):
            self._leave_copy(target)
        is_left_out, result = self._own.stand_in(func, tensors)
        if is_left_out:
            self._own.add(tensors, _new_in(result, tensors), (), silent=writes_silently(func))
            return result
        self._check_content(func, tensors)
        before = self._own.state_before(tensors) if self._buffers else []
        result, changed = _run(func, args, kwargs, tensors)
        written = [(tensor, memory_of(tensor)) for tensor in changed]
        for tensor in changed:
            self._check_write(func, tensor, own)
            # Later passes have other values there.
            self._writes[self._memory(tensor)] += 1 + (len(self._past) + 1) * 1_000_000
        results = _new_in(result, tensors)
        self._viewed.update(memory for memory in map(self._memory, results) if memory in self._readers)
        repeat = partial(repeating, func, args, kwargs, tensors) if before else None
        self._own.add(tensors, results, written, before, silent=writes_silently(func), repeating=repeat)
        self._own.describe(func, tensors, result)
        return result

    def _run_common(
        self,
        key: object,
        func: Callable[..., Any],
        args: Any,
        kwargs: Mapping[str, Any],
        tensors: list[torch.Tensor],
        audience: Audience,
    ) -> Any:
        """Run a call for this pass and for later ones."""
        is_partial = bool(self._buffers) and audience != self._everyone
        tasks, audience = audience, audience - self._past
        if len(audience) == 1:
            return self._run_alone(func, args, kwargs, tensors, audience)
        self._check_content(func, tensors)
        before = self._own.state_before(tensors) if is_partial else []
        # Reentrant checkpointing computes it once more, from the random numbers of this pass.
        drawn = _draws() if self._has_gradients and not torch.is_grad_enabled() else None
        result, written = _run(func, args, kwargs, tensors)
        results = tensors_in(result)
        if is_partial:
            changed = [(tensor, memory_of(tensor)) for tensor in written]
            silent = writes_silently(func)
            repeat = partial(repeating, func, args, kwargs, tensors) if before else None
            new = _new_in(result, tensors)
            self._own.add(tensors, new, changed, before, silent=silent, tasks=tasks, repeating=repeat)
        if not results and not written:
            return result
        for tensor in written:
            self._check_write(func, tensor, audience)
            memory = self._memory(tensor)
            self._writes[memory] += 1
            self._written_in_common[memory] += 1
            if memory in self._state:
                self._writers[memory] = audience
        call = _Call(result, tuple(self._memory(tensor) for tensor in written))
        call.alone = drawn is not None and not all(map(torch.equal, drawn, _draws()))
        self._calls[key] = call
        for tensor in (*written, *results):
            known = self._known.get(id(tensor))
            if known is None:
                self._add(tensor, audience, call)
            else:
                known.history = _history(tensor)
        return tree_map(lambda leaf: leaf, result) if isinstance(result, (list, dict)) else result

    def _audience(self, tensors: Sequence[torch.Tensor]) -> Audience:
        """The tasks in whose passes these tensors are the same."""
        audience = self._everyone
        for tensor in tensors:
            known = self._known.get(id(tensor))
            if known is None:
                if self._own.made(tensor):
                    audience &= {self._task}
                    continue
                # It was not made in a pass, so it was there before.
                if id(tensor) not in self._state_ids:
                    self._own.found(tensor)
                known = self._add(tensor, self._given.get(id(tensor), self._everyone) & self._everyone, None)
                known.made_in = None
            elif (history := _history(tensor)) is not known.history:
                known.history = history
                if known.made_by is not None:
                    if self._written_in_common.get(known.memory):
                        # To compute it anew would move the statistics of what follows once more.
                        raise SharedWriteError("it writes into a view of what several tasks have in common")
                    known.made_by.alone = True
            audience &= known.audience
        return audience

    def _add(self, tensor: torch.Tensor, audience: Audience, call: _Call | None) -> _Known:
        memory = self._memory(tensor)
        if memory not in self._readers:
            # Its place can be that of something of this pass that is gone.
            self._writes.pop(memory, None)
        known = _Known(tensor, next(self._names), audience, memory, _history(tensor), call, self._task)
        self._known[id(tensor)] = known
        self._readers[memory] = self._readers.get(memory, frozenset()) | audience
        return known

    def _is_as_it_was(self, result: Any) -> bool:
        for tensor in tensors_in(result):
            known = self._known.get(id(tensor))
            if known is not None and _history(tensor) is not known.history:
                return False
        return True

    def _is_read_by_others(self, tensor: torch.Tensor, own: Audience) -> bool:
        memory = self._memory(tensor)
        return memory not in self._state and not self._readers.get(memory, own) <= own

    def _check_write(self, func: Callable[..., Any], tensor: torch.Tensor, own: Audience) -> None:
        memory = self._memory(tensor)
        # A moving average that is scaled once and added to by every stream would be none.
        if self._is_read_by_others(tensor, own) or self._writers.get(memory, own) != own:
            raise SharedWriteError(f"a call of `{name_of(func)}` writes for one task into what others read")

    def _check_content(self, func: Callable[..., Any], tensors: Sequence[torch.Tensor]) -> None:
        """Refuse to read what an earlier pass has written over already, but this one not yet."""
        if not self._past or not self._written_in_common:
            return
        for memory in map(self._memory, tensors):
            written = self._written_in_common.get(memory, 0)
            if written and memory not in self._state and self._writes.get(memory, 0) != written:
                raise SharedWriteError(f"a call of `{name_of(func)}` reads for one task what is written over later")

    def _open(self, func: Callable[..., Any], tensor: torch.Tensor) -> None:
        """Let later passes have a tensor of their own instead of one to which this pass does what no call tells."""
        if len(self._everyone) == 1:
            return
        memory = self._memory(tensor)
        for known in [known for known in self._known.values() if known.memory == memory]:
            if known.made_by is None:
                continue
            if known.made_in != self._task:
                raise SharedWriteError(f"a call of `{name_of(func)}` changes for one task what others read")
            known.made_by.alone = True

    def _leave_copy(self, tensor: torch.Tensor) -> None:
        """Leave a copy of a shared tensor to later passes, since this one is about to write to it."""
        known, memory = self._known.get(id(tensor)), self._memory(tensor)
        if known is None or memory in self._viewed or sum(k.memory == memory for k in self._known.values()) > 1:
            raise SharedWriteError("it writes for one task into a tensor that has views")
        if known.made_in != self._task and (known.made_in != "" or self._past):
            raise SharedWriteError("it writes for one task into what earlier ones have read")
        # What is left to this pass is in its own hands from now on.
        del self._known[id(tensor)]
        self._own.add([tensor], [tensor], ())
        self._renamed[memory_of(tensor)] = next(self._names)
        if known.audience <= self._past | {self._task}:
            return
        with torch.set_grad_enabled(tensor.requires_grad):
            known.tensor = tensor.clone()
        known.history, known.made_in = _history(known.tensor), ""
        self._known[id(known.tensor)] = known
        self._renamed[memory_of(known.tensor)] = memory
        for key, (original, copied) in self._copies.items():
            if copied is tensor:
                self._copies[key] = original, known.tensor
        self._copies[id(tensor)] = tensor, known.tensor

    def handed(self, value: Any) -> Any:
        """What this pass has in place of something that it has in common with others."""
        return tree_map(self._handed, value) if self._copies else value

    def _handed(self, leaf: object) -> object:
        if id(leaf) not in self._copies:
            return leaf
        _, copied = self._copies[id(leaf)]
        known = self._known[id(copied)]
        known.made_in = known.made_in or self._task
        return copied

    def _memory(self, tensor: torch.Tensor) -> int:
        memory = memory_of(tensor)
        return self._renamed.get(memory, memory) if self._renamed else memory

    def _key(self, func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> object:
        parts = (func, self._keys_of(args), self._key_of(kwargs) if kwargs else (), self._modes())
        try:
            number = self._seen.get(parts, 0) + 1
        except TypeError:
            raise _NoKeyError from None
        self._seen[parts] = number
        return parts, number

    def _modes(self) -> tuple[object, ...]:
        """What else a call's result depends on."""
        autocast = tuple(
            (device, torch.get_autocast_dtype(device)) for device in self._devices if torch.is_autocast_enabled(device)
        )
        return torch.is_grad_enabled(), autocast, torch.get_default_dtype()

    def _keys_of(self, values: Iterable[object]) -> tuple[object, ...]:
        found: list[object] = []
        for value in values:
            known = self._known.get(id(value))
            if known is not None and known.tensor is value:
                found.append((known.name, self._writes.get(known.memory, 0)))
            elif value is None or value is True or value is False:
                found.append(value)
            else:
                found.append(self._key_of(value))
        return tuple(found)

    def _key_of(self, value: object) -> object:
        kind = type(value)
        if isinstance(value, (tuple, list)):
            return kind, self._keys_of(value)
        if isinstance(value, dict):
            return kind, tuple(value), self._keys_of(value.values())
        if isinstance(value, slice):
            return kind, self._keys_of((value.start, value.stop, value.step))
        if kind is float:
            # Equal are also 0.0 and -0.0.
            return kind, repr(value)
        return kind, value


def _run(
    func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any], tensors: Sequence[torch.Tensor]
) -> tuple[Any, list[torch.Tensor]]:
    """The result of a call, and the tensors among its arguments that it wrote to."""
    before = [_version(tensor) for tensor in tensors]
    result = func(*args, **kwargs)
    target = target_of(func, args, kwargs) if -1 in before else None
    written = [
        tensor
        for tensor, version in zip(tensors, before, strict=True)
        if (tensor is target if version == -1 else _version(tensor) != version)
    ]
    return result, written


def _version(tensor: torch.Tensor) -> int:
    """How often a tensor was written to; -1 for inference tensors, which do not tell."""
    return -1 if tensor.is_inference() else int(tensor._version)


def _history(tensor: torch.Tensor) -> object:
    """What computes a tensor's gradient."""
    try:
        return tensor.grad_fn
    except RuntimeError:
        # One of several views of something that was written to; to use it is an error of the network's own.
        return None


def _draws() -> list[torch.Tensor]:
    """What tells whether random numbers have been drawn."""
    return [torch.get_rng_state(), *cuda_states()]


def _new_in(result: Any, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The tensors in a result that are not among the arguments."""
    arguments = {id(tensor) for tensor in tensors}
    return [tensor for tensor in tensors_in(result) if id(tensor) not in arguments]
