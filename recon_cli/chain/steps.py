"""Steps that are made once: again only if what they take is another, or what they wrote is gone or changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recon_cli.artifacts.digests import digest_bytes, digest_file
from recon_cli.artifacts.publish import make_folder
from recon_cli.artifacts.run import Ledger, LedgerEntry
from recon_cli.errors import ReconError, quoted

LEDGER = "ledger.json"


class Steps:
    """The steps of a run in one folder, and what is known of those of earlier runs.

    :param folder: where they write.
    :raises ReconError: if the folder holds something else.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / LEDGER
        if self._path.exists():
            self._entries = dict(Ledger.read(self._path).steps)
        else:
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise ReconError(
                    f"{quoted(folder)} is not empty, and no folder of `recon run`",
                    "choose another name for its results",
                )
            self._entries = {}

    def begin(self) -> None:
        """Make the folder.

        :raises ReconError: if it cannot be made.
        """
        make_folder(self._folder)

    def is_done(self, name: str, inputs: Mapping[str, Any]) -> bool:
        """Whether a step was made with the same inputs, and its outputs are as it left them."""
        entry = self._entries.get(name)
        return entry is not None and entry.inputs == _digest(inputs) and self.is_there(name)

    def is_there(self, name: str) -> bool:
        """Whether the outputs of a step are as it left them, whatever it took."""
        entry = self._entries.get(name)
        if entry is None or entry.outputs is None:
            return False
        found = {file: self._folder / file for file in entry.outputs}
        return all(path.exists() and digest_file(path) == entry.outputs[file] for file, path in found.items())

    def is_under_way(self, name: str, inputs: Mapping[str, Any]) -> bool:
        """Whether a step was begun with the same inputs and not ended, so that it can go on."""
        entry = self._entries.get(name)
        return entry is not None and entry.outputs is None and entry.inputs == _digest(inputs)

    def make(self, name: str, inputs: Mapping[str, Any], outputs: Sequence[Path], action: Callable[[], None]) -> None:
        """Make a step, and remember it.

        :param outputs: the files that it may write.
        """
        self._note(name, LedgerEntry(inputs=_digest(inputs), outputs=None))
        action()
        written = {path.relative_to(self._folder).as_posix(): digest_file(path) for path in outputs if path.exists()}
        self._note(name, LedgerEntry(inputs=_digest(inputs), outputs=written))

    def _note(self, name: str, entry: LedgerEntry) -> None:
        self._entries[name] = entry
        Ledger(steps=dict(sorted(self._entries.items()))).write(self._path, overwrite=True)


def _digest(inputs: Mapping[str, Any]) -> str:
    return digest_bytes(json.dumps(inputs, sort_keys=True).encode())
