"""Batches without an end: a Dataset is batched, an iterable taken as it is, and both start over when they run out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from recon_cli.config.schema import DataSection
from recon_cli.errors import ReconError, counted, listed, quoted
from recon_cli.experiment.targets import call_target, user_code


@dataclass(frozen=True)
class Batch:
    """What a network is called with, and what its outputs are compared to.

    :ivar inputs: a tensor, or a tuple or mapping of arguments.
    :ivar targets: a mapping, a sequence, or one tensor whose columns are the tasks' labels.
    """

    inputs: Any
    targets: Any

    def call(self, model: torch.nn.Module) -> Any:
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
    """An endless sequence of batches on a device.

    :param section: the data's target and how a Dataset is batched.
    :param seed: seeds the order in which a Dataset is shuffled.
    :param device: where the tensors of a batch are moved.
    :ivar restarts: how often the data was started over.
    """

    def __init__(self, section: DataSection, seed: int, device: torch.device) -> None:
        self._section = section
        self._device = device
        self._loader = _make_loader(section, seed)
        self.restarts = 0
        self._started = False

    def __iter__(self) -> Iterator[Batch]:
        for times in count():
            number = 0
            with user_code(f"data.target {quoted(self._section.target)}"):
                for raw in self._loader:
                    number += 1
                    self.restarts = times
                    yield self._batch(raw)
            if number == 0:
                raise self._no_more()

    def _no_more(self) -> ReconError:
        target = quoted(self._section.target)
        if self._started:
            return ReconError(
                f"data.target {target} cannot be started over: it gave no batches the second time",
                "return a Dataset or a list of batches rather than a generator, or ask for fewer iterations",
            )
        dataset = self._loader.dataset if isinstance(self._loader, DataLoader) else None
        size = len(dataset) if isinstance(dataset, Sized) else 0
        if size:
            return ReconError(
                f"data.target {target} has {counted(size, 'item')}, fewer than one batch of {self._section.batch_size}",
                "lower `data.batch_size` or set `data.drop_last: false`",
            )
        return ReconError(f"data.target {target} is empty: it gave no batch")

    def _batch(self, raw: Any) -> Batch:
        self._started = True
        raw = _to_device(raw, self._device)
        if isinstance(raw, Mapping):
            key = self._section.inputs
            if key not in raw:
                raise ReconError(
                    f"a batch of {quoted(self._section.target)} has no key {quoted(key)} for the inputs; "
                    f"it has {listed(raw)}",
                    "name the key of the inputs: `data: {inputs: image, ...}`",
                )
            return Batch(raw[key], raw)
        if isinstance(raw, (tuple, list)) and len(raw) >= 2:
            return Batch(raw[0], raw[1] if len(raw) == 2 else raw[1:])
        raise ReconError(
            f"a batch of {quoted(self._section.target)} is a {quoted(type(raw).__name__)}; "
            f"a mapping or (inputs, targets) was expected"
        )


def _make_loader(section: DataSection, seed: int) -> Iterable[Any]:
    made = call_target("data.target", section.target, **section.kwargs)
    if not isinstance(made, Dataset):
        if not isinstance(made, Iterable):
            raise ReconError(
                f"data.target {quoted(section.target)} returned a {quoted(type(made).__name__)}; "
                f"a Dataset or an iterable of batches was expected"
            )
        return made
    is_stream = isinstance(made, IterableDataset)
    with user_code(f"the length of data.target {quoted(section.target)}"):
        if not is_stream and len(made) == 0:  # type: ignore[arg-type]  # map-style data sets have a length
            raise ReconError(f"data.target {quoted(section.target)} is empty: it has no items")
    return DataLoader(
        made,
        batch_size=section.batch_size,
        # A stream comes in its own order.
        shuffle=None if is_stream else section.shuffle,
        drop_last=section.drop_last,
        num_workers=section.workers,
        generator=torch.Generator().manual_seed(seed),
    )


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
