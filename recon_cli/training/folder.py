"""The folder of one trained network."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from recon_cli.errors import ReconError, quoted
from recon_cli.runs.folder import RunFolder
from recon_cli.runs.identity import START_ANEW

EVENTS_SUFFIX = ".recon"
"""How the names of TensorBoard's event files end that are Recon's."""


class TrainingFolder:
    """Where a training writes.

    :ivar log: a JSON object per line.
    :ivar best: the weights of the best evaluation.
    :ivar last: the weights after the last step.
    :ivar scores: the conflicts, if they were measured.
    :ivar document: what the training came to; it is there once it is over.
    :ivar files: all of these.
    :ivar run: what is kept while it is under way.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = path / "log.jsonl"
        self.best = path / "best.safetensors"
        self.last = path / "last.safetensors"
        self.scores = path / "scores.json"
        self.document = path / "training.json"
        self.run = RunFolder(path / "run")
        self.files = (self.document, self.scores, self.best, self.last, self.log)

    def clear(self) -> None:
        """Remove what an earlier training left.

        :raises ReconError: if it cannot be removed.
        """
        try:
            events = self.path.glob(f"events.out.tfevents.*{EVENTS_SUFFIX}")
            for path in (*self.files, *events):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise ReconError(f"cannot remove what is in {quoted(self.path)}: {error.strerror}") from None
        self.run.remove()

    def check_apart(self, inputs: Iterable[Path]) -> None:
        """Refuse to write where files are read.

        :raises ReconError: if one of them is a file of this folder.
        """
        for path in self.files:
            for source in inputs:
                if path.exists() and source.exists() and path.samefile(source):
                    raise ReconError(
                        f"{quoted(path)} would be replaced, but is an input of the training", "choose another folder"
                    )

    def check_begun(self) -> None:
        """Refuse to go on where no training was begun but files lie.

        :raises ReconError: if there are any.
        """
        for path in self.files:
            if path.exists():
                raise ReconError(f"{quoted(path)} is there, but no state of a run to go on with", START_ANEW)
