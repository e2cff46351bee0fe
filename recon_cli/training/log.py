"""The log of a training: a JSON object per line. It holds no times, so the same training writes the same bytes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recon_cli.artifacts import strict_json
from recon_cli.errors import ReconError, quoted


class TrainingLog:
    """A log that grows.

    :param path: its file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._bytes = 0

    def begin(self) -> None:
        """Begin with an empty file.

        :raises ReconError: if it cannot be written.
        """
        self._cut(0)

    def add(self, line: Mapping[str, Any]) -> None:
        """Add a line.

        :raises ReconError: if it cannot be written.
        """
        data = strict_json.encode(line, indent=None)
        try:
            with self._path.open("ab") as file:
                file.write(data)
        except OSError as error:
            raise ReconError(f"cannot write the log {quoted(self._path)}: {error.strerror}") from None
        self._bytes += len(data)

    def state(self) -> dict[str, Any]:
        """How long the log is; all of that is on disk."""
        with self._path.open("rb") as file:
            os.fsync(file.fileno())
        return {"bytes": self._bytes}

    def restore(self, state: Mapping[str, Any]) -> list[int]:
        """Go on after what a state counts on; lines that came later are written anew.

        :returns: the steps of those lines.
        :raises ReconError: if the log has become shorter.
        """
        later = self._steps_after(state["bytes"])
        self._cut(state["bytes"])
        return later

    def _steps_after(self, length: int) -> list[int]:
        try:
            with self._path.open("rb") as file:
                file.seek(length)
                # The last line may be torn.
                lines = file.read().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ReconError(f"cannot read the log {quoted(self._path)}: {error.strerror}") from None
        return [strict_json.parse(line, f"a line of the log {quoted(self._path)}")["step"] for line in lines]

    def _cut(self, length: int) -> None:
        try:
            with self._path.open("ab") as file:
                if file.tell() < length:
                    raise ReconError(
                        f"the log {quoted(self._path)} is shorter than the run to go on with knows it",
                        "put it back, or pass --force without --resume to start anew",
                    )
                file.truncate(length)
        except OSError as error:
            raise ReconError(f"cannot write the log {quoted(self._path)}: {error.strerror}") from None
        self._bytes = length
