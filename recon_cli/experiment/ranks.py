"""The processes that train one network together, each on batches of its own (data parallel)."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed

from recon_cli.errors import NonFiniteError, ReconError, SharedError, SharedNonFiniteError
from recon_cli.torchrun import is_one_of_many

_Anything = TypeVar("_Anything")


@dataclass(frozen=True)
class Ranks:
    """The ranks of PyTorch's default process group; a process by itself is the only one.

    :ivar size: how many there are.
    :ivar rank: which of them this one is.
    """

    size: int = 1
    rank: int = 0

    @classmethod
    def current(cls) -> Ranks:
        """The group that this process belongs to now."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_world_size(), distributed.get_rank())
        return cls()

    def sum(self, tensors: Iterable[torch.Tensor]) -> None:
        """Add up each of these tensors over the ranks, in place; all ranks give the same number of the same shapes."""
        if self.size == 1:
            return
        pending = [distributed.all_reduce(tensor, async_op=True) for tensor in tensors]
        for work in pending:
            work.wait()

    def sum_gradients(self, parameters: Sequence[torch.Tensor]) -> None:
        """Add up `.grad` of all parameters over the ranks; one that none of them reaches keeps its None."""
        if self.size == 1:
            return
        gradients = []
        reached = self.counts([parameter.grad is not None for parameter in parameters])
        for parameter, times in zip(parameters, reached, strict=True):
            if times:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                gradients.append(parameter.grad)
        self.sum(gradients)

    def copy_first(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give these tensors the values that they have on the first rank."""
        if self.size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, 0)

    def from_first(self, value: _Anything) -> _Anything:
        """What the first rank gives here."""
        if self.size == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, 0)
        return values[0]

    def counts(self, flags: Sequence[bool]) -> list[int]:
        """For each of several things, how many ranks have it."""
        if self.size == 1:
            return [int(flag) for flag in flags]
        numbers = torch.tensor(flags, dtype=torch.int64, device=_device())
        self.sum([numbers])
        return numbers.tolist()

    def highest(self, number: int) -> int:
        """The highest of the numbers that the ranks give."""
        if self.size == 1:
            return number
        highest = torch.tensor(number, device=_device())
        distributed.all_reduce(highest, distributed.ReduceOp.MAX)
        return int(highest)

    def share(self, value: _Anything) -> list[_Anything]:
        """What each of the ranks gives here, in their order."""
        if self.size == 1:
            return [value]
        values: list[_Anything] = [value] * self.size
        distributed.all_gather_object(values, value)
        return values

    @contextmanager
    def together(self) -> Iterator[None]:
        """An error of one rank inside the block ends all of them, as otherwise the others would wait for it forever.

        :raises SharedError: on all ranks, that of the first rank with one; its own exception, if there is but one rank.
        """
        failure: tuple[type[SharedError], str, str | None] | None = None
        try:
            yield
        except Exception as error:
            if self.size == 1:
                raise
            kind = SharedNonFiniteError if isinstance(error, NonFiniteError) else SharedError
            said = (error.message, error.hint) if isinstance(error, ReconError) else (repr(error), None)
            failure = (kind, *said)
        if self.highest(int(failure is not None)):
            rank, (kind, message, hint) = next((r, f) for r, f in enumerate(self.share(failure)) if f is not None)
            raise kind(f"on rank {rank}: {message}", hint)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Inside the block ranks wait for each other in some other way than here, so an error ends its rank at once.

        The others fail where they wait, as they lose it.

        :raises ReconError: that error, and on which rank it was.
        """
        try:
            yield
        except ReconError as error:
            raise ReconError(f"on rank {self.rank}: {error.message}", error.hint) from error


ALONE = Ranks()


@contextmanager
def joined_ranks(device: torch.device) -> Iterator[Ranks]:
    """Join the group that `torchrun` has started this process for, while the block runs; else be the only rank.

    :param device: where this process computes: gloo connects CPUs, NCCL GPUs.
    """
    if not is_one_of_many() or distributed.is_initialized():
        yield Ranks.current()
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks.current()
        # Nobody leaves while another still speaks to it.
        distributed.barrier()
    finally:
        # The shards of a network hold the group, whose threads would outlive the interpreter.
        gc.collect()
        distributed.destroy_process_group()


def _device() -> torch.device:
    """Where tensors lie that the group can send."""
    if distributed.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
