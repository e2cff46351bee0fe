"""Recording the data flow of a network while it runs once, whatever its code does."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._ops import HigherOrderOperator
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from recon_cli.artifacts.dataflow import Dataflow
from recon_cli.dataflow.contraction import contracted
from recon_cli.dataflow.flops import is_counted
from recon_cli.dataflow.operations import Operations
from recon_cli.dataflow.tasks import assign_tasks
from recon_cli.errors import ReconError, quoted
from recon_cli.network_states import leaving_no_trace, uncompiled
from recon_cli.outputs import kept_parts, output_of
from recon_cli.tasks import check_tasks


def dataflow_of(model: nn.Module, tasks: Sequence[str], /, *args: Any, **kwargs: Any) -> Dataflow:
    """Record the data flow of a network: which operations its tasks' outputs come from, and what they cost.

    From it, :func:`recon_cli.branching.streams.count_flops` tells the operations of the network for every split. The
    network runs once on an example batch, without gradients and in the mode in which it is. It may be any code, but
    what passes through Python's numbers (`.item()`) or numpy is not seen, nor what a compiled extension does outside of
    PyTorch's operations. Afterwards its buffers, its modules' attributes, the inputs and all random number generators
    are as before. A call of a PyTorch function is one operation.

    :param model: any `nn.Module` that returns one output per task: a mapping by task name, a tuple in task order, or an
        object with attributes.
    :param tasks: the tasks, in order.
    :param args: the example batch, as the network takes it, with `kwargs`.
    :raises ReconError: if the output has no tensor for a task, or what the network does cannot be followed.
    """
    args, kwargs = copied((args, kwargs))
    return record(model, check_tasks(tasks), lambda: model(*args, **kwargs))


def record(model: nn.Module, tasks: Sequence[str], run: Callable[[], Any]) -> Dataflow:
    """Record the data flow of a network while something runs it once; see :func:`dataflow_of`.

    :param run: runs the network and returns its output. It may write to the inputs that it hands over.
    """
    operations = Operations(model.state_dict(keep_vars=True), _buffers(model))
    with leaving_no_trace(model), _as_written():
        with _Calls(operations), Recording(operations):
            output = run()
        for name, buffer in _buffers(model).items():
            operations.replace(name, buffer)
        outputs = [operations.writers(_tensors_of(output, tasks, task)) for task in tasks]
    assign_tasks(operations.seen, outputs)
    return contracted(tasks, operations.seen)


def _buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.named_buffers(remove_duplicate=False))


@contextmanager
def _as_written() -> Iterator[None]:
    """Run what is compiled as it was written, and leave nothing behind that could be used again."""
    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        with torch.no_grad(), uncompiled(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_autocast_cache_enabled(cached)


def copied(inputs: Any) -> Any:
    """The same inputs in memory of their own, so that a run may write to them."""
    return copy.deepcopy(tree_map(lambda leaf: leaf.detach() if isinstance(leaf, torch.Tensor) else leaf, inputs))


def _tensors_of(output: Any, tasks: Sequence[str], task: str) -> list[torch.Tensor]:
    """The tensors that a network returns for a task; for the first one also those that belong to no task."""
    found = list(_tensors_in(output_of(output, tasks, task)))
    if not found:
        raise ReconError(f"the model's output for task {quoted(task)} holds no tensor")
    return found + (list(_tensors_in(kept_parts(output, tasks, task))) if task == tasks[0] else [])


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    for leaf in tree_leaves(value):
        if isinstance(leaf, torch.Tensor):
            yield leaf
        elif dataclasses.is_dataclass(leaf):
            yield from _tensors_in([getattr(leaf, each.name) for each in dataclasses.fields(leaf)])


class _Calls(TorchFunctionMode):
    """Takes together what a call of one of PyTorch's functions does, as it is run, or not, as a whole.

    Under such a mode, layers take no shortcuts that could not be counted.
    """

    def __init__(self, operations: Operations) -> None:
        super().__init__()
        self._operations = operations

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        with self._operations.together():
            return func(*args, **(kwargs or {}))


class Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types for its modes
    """Notes every operation that runs."""

    supports_higher_order_operators = True

    def __init__(self, operations: Operations) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types for its modes
        self._operations = operations

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # A tensor that consists of others computes with these, which is seen.
        if any(hasattr(kind, "__tensor_flatten__") for kind in types):
            return NotImplemented
        if func is torch.ops.higher_order.cond:
            holds, first, second, operands = args
            with self:
                return (first if holds else second)(*operands)
        if isinstance(func, HigherOrderOperator):
            if not is_counted(func):
                raise ReconError(f"the network calls {quoted(func)}, inside which nothing can be seen")
        elif func is not torch.ops.prim.device.default:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        self._operations.add(func, args, kwargs, result)
        return result
