"""Ctrl-C, and the SIGTERM that a scheduler sends to a job that it preempts: the step under way is finished first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Whether a run was asked to stop.

    :ivar signal: the signal that asked for it, if any.
    """

    def __init__(self) -> None:
        self.signal: int | None = None


class Interrupted(Exception):  # noqa: N818  (it was asked for)
    """A run has stopped because it was asked to.

    :ivar signal: the signal that asked for it.
    :ivar between_steps: whether the last step was finished, so that the run can go on from there.
    """

    def __init__(self, signal: int, *, between_steps: bool) -> None:
        super().__init__(signal)
        self.signal = signal
        self.between_steps = between_steps

    def end(self) -> BaseException:
        """What ends the process, as the signal itself would: exit code 130 or 143."""
        return KeyboardInterrupt() if self.signal == signal.SIGINT else SystemExit(128 + self.signal)


@contextmanager
def unnoticed_workers() -> Iterator[None]:
    """Let the processes that load data end while the block runs, as nothing waits for them any more.

    PyTorch else raises an error when a signal has ended one, at whatever the main thread is doing then.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


@contextmanager
def noticing_signals() -> Iterator[Interruption]:
    """Note the first signal that asks to stop; from then on, and after the block, signals do what they did before."""
    interruption = Interruption()
    # Only the main thread may handle signals, and who started us with one ignored meant it (`nohup`).
    here = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in _SIGNALS if here}
    before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _: FrameType | None) -> None:
        interruption.signal = number
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield interruption
    finally:
        restore()
