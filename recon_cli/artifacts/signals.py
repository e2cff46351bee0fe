"""Ctrl-C and SIGTERM while files are made: each ends the work by an exception, and never in the middle of a step."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class HeldSignals:
    """Signals wait inside the block, except where they are let in.

    The first one that is let in and raises closes the door behind it, so that a second one cannot disturb the tidying
    up. Where SIGTERM would end the process at once, it raises `SystemExit` (exit code 143) instead. One that waited to
    the end of the block arrives there. Only the main thread may handle signals; elsewhere this does nothing.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._let_in = False
        self._waiting: int | None = None

    @contextlib.contextmanager
    def let_in(self) -> Iterator[None]:
        """Take signals as they come: for work that may end anywhere."""
        self._let_in = True
        try:
            if self._waiting is not None:
                number, self._waiting = self._waiting, None
                self._arrive(number, None)
            yield
        finally:
            self._let_in = False

    def __enter__(self) -> HeldSignals:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                handler = signal.getsignal(number)
                # Who started us with a signal ignored meant it (`nohup`); None was not set by Python.
                if handler not in (signal.SIG_IGN, None):
                    self._before[number] = handler
                    signal.signal(number, self._arrive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            # A handler that was called may have replaced itself.
            if signal.getsignal(number) == self._arrive:
                signal.signal(number, handler)
        if error is None and self._waiting is not None:
            self._handle(self._waiting, None)

    def _arrive(self, number: int, frame: FrameType | None) -> None:
        if not self._let_in:
            self._waiting = number
            return
        self._let_in = False
        self._handle(number, frame)
        self._let_in = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        handler = self._before[number]
        if not callable(handler):
            raise SystemExit(128 + number)
        handler(number, frame)
