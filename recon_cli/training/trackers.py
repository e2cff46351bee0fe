"""Where the log of a training goes besides its file: TensorBoard, and Weights & Biases."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from recon_cli.errors import ReconError, describe, quoted
from recon_cli.random_states import random_states, set_random_states
from recon_cli.training.folder import EVENTS_SUFFIX


class Tracker(Protocol):
    """Something that shows how a training goes."""

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Show what is known after a step."""

    def close(self, *, failed: bool) -> None:
        """Write what is not written yet."""


class TensorBoard:
    """Event files.

    :param folder: where they are written.
    :param purged: the first step of which what is in older files does not count any more; None where there are none.
    """

    def __init__(self, folder: Path, purged: int | None) -> None:
        from torch.utils import tensorboard

        # Without TensorBoard it has another type than with it.
        make: Any = tensorboard.SummaryWriter
        self._writer = make(str(folder), purge_step=purged, filename_suffix=EVENTS_SUFFIX)

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Add the scalars of a step."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
        # What the log has is never missing here, however the process ends.
        self._writer.flush()

    def close(self, *, failed: bool) -> None:  # noqa: ARG002  (event files do not say how a training ended)
        """Close the file."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, in the project that its environment variables name, or offline if they say so.

    :param folder: gives the run its name.
    :param run_id: tells the run from all others; one of the same id goes on.
    """

    def __init__(self, folder: Path, run_id: str) -> None:
        import wandb

        # It would stand in for standard error, which may be another one by the time that it is put back.
        self._run: Any = wandb.init(
            id=run_id, name="/".join(folder.parts[-2:]), resume="allow", settings={"console": "off"}
        )
        # The run's own steps count its lines, and cannot go back.
        self._run.define_metric("*", step_metric="step")

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Add a line."""
        self._run.log({"step": step, **scalars})

    def close(self, *, failed: bool) -> None:
        """End the run."""
        self._run.finish(exit_code=int(failed))


class Trackers:
    """The trackers of a training, none of which can end it: one that fails is told of, and gets nothing more.

    :param names: which ones.
    :param folder: that of the training.
    """

    def __init__(self, names: Sequence[str], folder: Path) -> None:
        self._names = tuple(dict.fromkeys(names))
        self._folder = folder
        self._run_id = secrets.token_hex(4)
        self._purged: int | None = None
        # How many of the lines to come each of them has already.
        self._known: dict[str, int] = {}
        self._active: dict[str, Tracker] = {}
        self._warn: Callable[[str], None] = lambda _: None

    def state(self) -> dict[str, Any]:
        """What tells the training from others, for trackers that go on with it."""
        return {"run_id": self._run_id, "known": dict(self._known)}

    def restore(self, state: Mapping[str, Any], step: int, again: Sequence[int]) -> None:
        """Go on with the trackers of another process; the state should be saved at once, as it then tells more.

        :param step: the steps that were made.
        :param again: the steps of the lines that were added there and will be again: those that came after its state
            was saved.
        """
        self._run_id = state["run_id"]
        self._purged = step + 1
        # An epoch may have ended behind the very step.
        found = {"tensorboard": again.count(step), "wandb": len(again)}
        # That process may have gone on from this state itself, and ended before it came as far as the one before it.
        self._known = {name: max(lines, state["known"].get(name, 0)) for name, lines in found.items()}

    @contextmanager
    def tracking(self, warn: Callable[[str], None]) -> Iterator[None]:
        """Show the training while the block runs.

        :param warn: is told of a tracker that fails.
        """
        self._warn = warn
        # A tracker must not change what a training draws.
        states = random_states()
        for name in self._names:
            with self._surviving(name):
                self._active[name] = self._open(name)
        set_random_states(states)
        failed = True
        try:
            yield
            failed = False
        finally:
            for name, tracker in list(self._active.items()):
                with self._surviving(name):
                    tracker.close(failed=failed)
            self._active = {}

    def add(self, line: Mapping[str, Any]) -> None:
        """Show a line of the log."""
        scalars = scalars_of(line)
        for name, tracker in list(self._active.items()):
            if self._known.get(name):
                self._known[name] -= 1
                continue
            with self._surviving(name):
                tracker.add(line["step"], scalars)

    def _open(self, name: str) -> Tracker:
        if name == "tensorboard":
            return TensorBoard(self._folder, self._purged)
        return WeightsAndBiases(self._folder, self._run_id)

    @contextmanager
    def _surviving(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001  (somebody else's code, which the training does not depend on)
            self._active.pop(name, None)
            self._warn(f"{quoted(name)} failed, and is told nothing more of this training: {describe(error)}")


def check_installed(names: Sequence[str]) -> None:
    """Refuse to train where a tracker cannot be imported.

    :raises ReconError: naming it.
    """
    for name in names:
        try:
            if name == "tensorboard":
                from torch.utils.tensorboard import SummaryWriter  # noqa: F401
            else:
                # Any folder of this name can be imported, such as the one that it writes.
                from wandb import init  # noqa: F401
        # Packages that do not go together fail in any way.
        except Exception as error:
            raise ReconError(
                f"`train.trackers` names {quoted(name)}, which cannot be imported: {describe(error)}",
                f"pip install 'recon_cli[{name}]'",
            ) from error


def scalars_of(line: Mapping[str, Any]) -> dict[str, float]:
    """All numbers of a line of the log but its step, by the path to each, which begins with the event."""
    return dict(_numbers(line["event"], {key: value for key, value in line.items() if key not in ("step", "event")}))


def _numbers(path: str, value: object) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _numbers(f"{path}/{key}", part)
    elif isinstance(value, (list, tuple)):
        yield from _numbers(path, dict(enumerate(value)))
    elif isinstance(value, (bool, int, float)):
        yield path, float(value)
