"""Saving the state of a run now and then, so that it can go on after whatever stops it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from recon_cli.errors import ReconError, describe
from recon_cli.runs.folder import RunFolder

SAVE_SECONDS = 60.0
"""How often a state is saved."""

SAVE_SHARE = 0.02
"""The part of the time that saving may take; a large network is saved less often."""


class StateKeeper:
    """Saves a run's state into its folder.

    :param folder: the folder; it exists. None on all ranks but the first, which only give their part of the state.
    :param state: gives the state.
    :param warn: is told when a state cannot be saved; the run goes on all the same.
    """

    def __init__(
        self, folder: RunFolder | None, state: Callable[[], dict[str, Any]], warn: Callable[[str], None]
    ) -> None:
        self._folder = folder
        self._state = state
        self._warn = warn
        self._is_readable = False
        self._told: str | None = None
        self._next = time.monotonic() + SAVE_SECONDS

    @property
    def is_due(self) -> bool:
        """Whether it is time to save."""
        return self._folder is not None and time.monotonic() >= self._next

    def save(self) -> bool:
        """Save now, and say whether that worked."""
        start = time.monotonic()
        try:
            return self._try_to_save()
        finally:
            end = time.monotonic()
            self._next = end + max(SAVE_SECONDS, (end - start) / SAVE_SHARE)

    def _try_to_save(self) -> bool:
        try:
            state = self._state()
            if self._folder is not None:
                self._folder.save(state)
                if not self._is_readable:
                    # What an optimizer of the user's keeps may be more than plain data.
                    self._check(self._folder)
        except Exception as error:  # noqa: BLE001  (a run that cannot be saved is still worth finishing)
            reason = error.message if isinstance(error, ReconError) else describe(error)
            if reason != self._told:
                self._warn(f"the run cannot be saved, so it could not be resumed: {reason}")
            self._told = reason
            return False
        return True

    def _check(self, folder: RunFolder) -> None:
        try:
            folder.load(lazily=True)
        except ReconError:
            folder.discard_state()
            raise
        self._is_readable = True
