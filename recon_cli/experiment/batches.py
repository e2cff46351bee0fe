"""Batches without an end: a Dataset is batched, an iterable taken as it is, and both start over when they run out."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler

from recon_cli.config.schema import DataSection
from recon_cli.errors import ReconError, counted, listed, quoted
from recon_cli.experiment.ranks import ALONE, Ranks
from recon_cli.experiment.targets import call_target, user_code
from recon_cli.random_states import random_states, set_random_states

END: Final = object()
"""What stands for the end of a pass over the data."""


@dataclass(frozen=True)
class Batch:
    """What a network is called with, and what its outputs are compared to.

    :ivar inputs: a tensor, or a tuple or mapping of arguments.
    :ivar targets: a mapping, a sequence, or one tensor whose columns are the tasks' labels.
    """

    inputs: Any
    targets: Any

    def call(self, model: Callable[..., Any]) -> Any:
        """Run a network on the inputs."""
        if isinstance(self.inputs, Mapping):
            return model(**self.inputs)
        if isinstance(self.inputs, (tuple, list)):
            return model(*self.inputs)
        return model(self.inputs)

    def label(self, task: str, label: str | int, *, partial: bool = False) -> Any:
        """The label of a task; None if it has none in this batch.

        :param label: a key or an index among the targets; a column where the targets are one tensor.
        :param partial: whether the key may be missing, which means that the task has no label.
        :raises ReconError: if the targets have no such part.
        """
        targets = self.targets
        if isinstance(targets, Mapping):
            if label not in targets:
                if partial:
                    return None
                raise ReconError(
                    f"task {quoted(task)}: the batch has no label {quoted(label)}; it has {listed(targets)}",
                    f"if {quoted(label)} is missing from some batches only, set `partial: true` for that task",
                )
            return targets[label]
        if not isinstance(label, int):
            raise ReconError(
                f"task {quoted(task)}: the label {quoted(label)} is a name, but the batch's targets have no names",
                "give the label's position among the targets, counted from 0",
            )
        is_table = isinstance(targets, torch.Tensor)
        if not is_table and not isinstance(targets, (tuple, list)):
            raise ReconError(
                f"task {quoted(task)}: the batch's targets are a {quoted(type(targets).__name__)}; "
                f"a mapping, a tuple or a tensor with a column for each task was expected"
            )
        if is_table and targets.dim() < 2:
            raise ReconError(
                f"task {quoted(task)}: the batch's targets are one tensor of shape {tuple(targets.shape)}, "
                f"which has no columns"
            )
        number = targets.shape[1] if is_table else len(targets)
        if not -number <= label < number:
            raise ReconError(f"task {quoted(task)}: there is no label {label} among the batch's {number} targets")
        return targets[:, label] if is_table else targets[label]


class Batches:
    """An endless sequence of batches on a device, which can be taken up where it was.

    :param section: the data's target and how a Dataset is batched.
    :param seed: seeds the order in which a Dataset is shuffled.
    :param device: where the tensors of a batch are moved.
    :param ranks: of every `ranks.size` batches, each rank takes the one at its place; what is left over is dropped.
    :param key: the section's key in the config, as messages name it.
    :ivar passes: how often it came to the end of the data.
    :ivar restarts: how often the data was started over.
    """

    def __init__(
        self, section: DataSection, seed: int, device: torch.device, ranks: Ranks = ALONE, *, key: str = "data"
    ) -> None:
        self._section = section
        self._device = device
        self._ranks = ranks
        self._what = f"{key}.target {quoted(section.target)}"
        self._loader = make_loader(f"{key}.target", section, seed, self._ranks)
        self.restarts = 0
        self._started = False
        self.passes = 0
        self._position = 0
        self._is_between = True
        self._raw: Iterator[Any] | None = None
        self._beginning: dict[str, Any] = {}

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        while True:
            if (batch := self.next_of_pass()) is not None:
                return batch

    def next_of_pass(self) -> Batch | None:
        """The next batch of the present pass over the data; None, once, where the pass ends."""
        with user_code(self._what):
            if self._raw is None:
                self._beginning = {"random": random_states(), "generator": self._generator_state()}
                self._raw, self._position = self._begin(), 0
                self._is_between = False
            raw = self._next()
            if raw is END:
                if self._position == 0:
                    raise self._no_more()
                self._raw = None
                self._is_between = True
                self.passes += 1
                return None
            self._position += 1
            self.restarts = self.passes
            self._started = True
            return as_batch(raw, self._section, self._device)

    def state(self) -> dict[str, Any]:
        """Where the sequence is, and how the random numbers stood when its present pass over the data began."""
        return {
            "passes": self.passes,
            "position": self._position,
            "beginning": self._beginning,
            # Between two passes there is none to go through again.
            "generator": self._generator_state() if self._is_between else None,
            "is_between": self._is_between,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where another sequence of the same data was; the random number generators are left anywhere.

        The batches of the present pass that are done are made again, and dropped.

        :param state: what `state` gave after a batch.
        :raises ReconError: if the data has become less.
        """
        self.passes = state["passes"]
        self._position, self._beginning = state["position"], state["beginning"]
        self._started = True
        generator = self._generator()
        self._is_between = state["is_between"]
        if self._is_between:
            self.restarts = self.passes - 1
            self._raw = None
            if generator is not None and state["generator"] is not None:
                generator.set_state(state["generator"])
            return
        self.restarts = self.passes
        set_random_states(self._beginning["random"])
        if generator is not None and self._beginning["generator"] is not None:
            generator.set_state(self._beginning["generator"])
        with user_code(self._what):
            self._raw = self._begin()
            for done in range(self._position):
                if self._next() is END:
                    raise ReconError(
                        f"{self._what} gave {done} batches this time, "
                        f"but {self._position} or more to the run that is to go on"
                    )

    @property
    def length(self) -> int | None:
        """The batches of a pass that this rank takes, if the data says so."""
        if not isinstance(self._loader, Sized):
            return None
        try:
            batches = len(self._loader)
        # A stream of unknown length has the method, but no length.
        except TypeError:
            return None
        return batches if _is_sharded(self._loader) else batches // self._ranks.size

    def close(self) -> None:
        """End the processes that load the data, if there are any."""
        self._raw = None

    def _next(self) -> Any:
        """The next batch as the data gives it, or `END`."""
        assert self._raw is not None
        try:
            return next_or_end(self._raw)
        except Exception:
            self._raw = None
            raise

    def _begin(self) -> Iterator[Any]:
        if self._ranks.size > 1 and not _is_sharded(self._loader):
            return iter(Share(self._loader, self._ranks))
        return iter(self._loader)

    def _generator(self) -> torch.Generator | None:
        return self._loader.generator if isinstance(self._loader, DataLoader) else None

    def _generator_state(self) -> torch.Tensor | None:
        generator = self._generator()
        return None if generator is None else generator.get_state()

    def _no_more(self) -> ReconError:
        if self._started:
            return ReconError(
                f"{self._what} cannot be started over: it gave no batches the second time",
                "return a Dataset or a list of batches rather than a generator, or ask for fewer iterations",
            )
        dataset = self._loader.dataset if isinstance(self._loader, DataLoader) else None
        size = len(dataset) if isinstance(dataset, Sized) else 0
        if size:
            batches = "one batch" if self._ranks.size == 1 else f"{self._ranks.size} batches"
            return ReconError(
                f"{self._what} has {counted(size, 'item')}, fewer than {batches} of {self._section.batch_size}",
                "lower `data.batch_size` or set `data.drop_last: false`",
            )
        return ReconError(f"{self._what} is empty: it gave no batch")


def next_or_end(batches: Iterator[Any]) -> Any:
    """The next batch as data gives it, or `END`."""
    try:
        return next(batches, END)
    except Exception as error:
        # The frames of an error that a worker sent hold that error, and the workers, which would never end.
        del batches
        traceback.clear_frames(error.__traceback__)
        raise


def as_batch(raw: Any, section: DataSection, device: torch.device) -> Batch:
    """What data gave, on a device.

    :param raw: (inputs, targets), (inputs, target, target, ...), or a mapping.
    :param section: says which key of a mapping holds the inputs.
    :raises ReconError: if it is something else.
    """
    raw = _to_device(raw, device)
    if isinstance(raw, Mapping):
        key = section.inputs
        if key not in raw:
            raise ReconError(
                f"a batch of {quoted(section.target)} has no key {quoted(key)} for the inputs; it has {listed(raw)}",
                "name the key of the inputs: `data: {inputs: image, ...}`",
            )
        return Batch(raw[key], raw)
    if isinstance(raw, (tuple, list)) and len(raw) >= 2:
        return Batch(raw[0], raw[1] if len(raw) == 2 else raw[1:])
    raise ReconError(
        f"a batch of {quoted(section.target)} is a {quoted(type(raw).__name__)}; "
        f"a mapping or (inputs, targets) was expected"
    )


class Share(Iterable[Any]):
    """One rank's part of a sequence of batches: of every `ranks.size`, the one at its place.

    :param batches: the batches of all ranks.
    """

    def __init__(self, batches: Iterable[Any], ranks: Ranks) -> None:
        self._batches = batches
        self._ranks = ranks

    def __len__(self) -> int:
        return len(self._batches) // self._ranks.size  # type: ignore[arg-type]  # asked for where there is one only

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self._batches)
        # Every rank makes as many steps as the others, so a last round that is not full is left out.
        while len(round_ := list(islice(batches, self._ranks.size))) == self._ranks.size:
            yield round_[self._ranks.rank]


def _is_sharded(loader: Iterable[Any]) -> bool:
    return isinstance(loader, DataLoader) and isinstance(loader.batch_sampler, Share)


def make_loader(what: str, section: DataSection, seed: int, ranks: Ranks = ALONE) -> Iterable[Any]:
    """The batches of one pass over the data, each time it is gone through.

    :param what: the key of the target, as messages name it.
    :param seed: seeds the order in which a Dataset is shuffled.
    :param ranks: of every `ranks.size` batches of a Dataset, only that at this rank's place is loaded.
    :raises ReconError: if the target fails, or is no data.
    """
    made = call_target(what, section.target, **section.kwargs)
    if not isinstance(made, Dataset):
        if not isinstance(made, Iterable):
            raise ReconError(
                f"{what} {quoted(section.target)} returned a {quoted(type(made).__name__)}; "
                f"a Dataset or an iterable of batches was expected"
            )
        return made
    is_stream = isinstance(made, IterableDataset)
    with user_code(f"the length of {what} {quoted(section.target)}"):
        if not is_stream and len(made) == 0:  # type: ignore[arg-type]  # map-style data sets have a length
            raise ReconError(f"{what} {quoted(section.target)} is empty: it has no items")
    generator = torch.Generator().manual_seed(seed)
    if ranks.size > 1 and not is_stream:
        # The batches are those that one process alone would make; each rank loads only its own.
        items = range(len(made))  # type: ignore[arg-type]
        order = RandomSampler(items, generator=generator) if section.shuffle else SequentialSampler(items)
        return DataLoader(
            made,
            batch_sampler=Share(BatchSampler(order, section.batch_size, section.drop_last), ranks),
            num_workers=section.workers,
            generator=generator,
            worker_init_fn=_outlive_a_signal,
        )
    return DataLoader(
        made,
        batch_size=section.batch_size,
        # A stream comes in its own order.
        shuffle=None if is_stream else section.shuffle,
        drop_last=section.drop_last,
        num_workers=section.workers,
        generator=generator,
        worker_init_fn=_outlive_a_signal,
    )


def _outlive_a_signal(_: int) -> None:
    """Let a worker finish what it does when its whole process group is asked to stop; the run ends it afterwards."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def _to_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if hasattr(value, "to"):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _to_device(item, device) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        items = (_to_device(item, device) for item in value)
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value
