"""The folder that a run keeps while it is under way, such as `scores.run/` beside `scores.json`.

It holds the last saved state, which is replaced as a whole, and goes when the result is published.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from recon_cli.artifacts.publish import publishing
from recon_cli.errors import ReconError, quoted
from recon_cli.runs.identity import START_ANEW

_HOW_ON = "pass --resume to go on with that run, or --force to start anew"


class RunFolder:
    """The folder of one run.

    :ivar path: the folder.
    :ivar partial: where scores of a run that was interrupted lie, for those who do not want to wait.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial = self.path / "partial.json"
        self._state = self.path / "state.pt"

    @classmethod
    def beside(cls, output: Path) -> RunFolder:
        """The folder of a run that is to write one file."""
        return cls(output.with_name(f"{output.name.removesuffix('.json')}.run"))

    @property
    def exists(self) -> bool:
        """Whether a run was here before."""
        return os.path.lexists(self.path)

    @property
    def has_state(self) -> bool:
        """Whether there is a state to go on from."""
        return self._state.exists()

    def check_absent(self) -> None:
        """Refuse to begin where another run was, or still is.

        :raises ReconError: if the folder exists.
        """
        if self.exists:
            raise ReconError(f"{quoted(self.path)} holds a run that was not finished", _HOW_ON)

    def create(self) -> None:
        """Make the folder.

        :raises ReconError: if it exists, or cannot be made.
        """
        try:
            self.path.mkdir()
        except FileExistsError:
            self.check_absent()
        except OSError as error:
            raise ReconError(f"cannot make the folder {quoted(self.path)}: {error.strerror}") from None

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the state; whatever happens meanwhile, the old or the new one is there as a whole.

        :raises ReconError: if it cannot be written.
        """
        with publishing([self._state], overwrite=True) as (file,), os.fdopen(os.dup(file.descriptor), "wb") as stream:
            torch.save(state, stream)

    def load(self, *, lazily: bool = False) -> dict[str, Any]:
        """Read the state.

        :param lazily: whether the tensors' values stay in the file until they are looked at.
        :raises ReconError: if it is damaged, or holds more than plain data and tensors.
        """
        try:
            state = torch.load(self._state, map_location="cpu", weights_only=True, mmap=lazily)
        except Exception as error:  # noqa: BLE001  (a damaged file fails in any way)
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise ReconError(
                f"cannot read the state of a run in {quoted(self._state)}: {reason[0]}", START_ANEW
            ) from None
        if not isinstance(state, dict):
            raise ReconError(f"{quoted(self._state)} is no state of a run", START_ANEW)
        return state

    def discard_state(self) -> None:
        """Take the state away."""
        self._state.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder with all that runs keep in it.

        :raises ReconError: if it holds anything else.
        """
        ours = ("state.pt", "partial.*", "cosines-*.safetensors", ".*.tmp")
        try:
            for pattern in ours:
                for path in self.path.glob(pattern):
                    path.unlink()
            self.path.rmdir()
        except FileNotFoundError:
            pass
        except OSError as error:
            raise ReconError(
                f"cannot remove the folder {quoted(self.path)}: {error.strerror}",
                "move away what is not Recon's, or choose another output name",
            ) from None
