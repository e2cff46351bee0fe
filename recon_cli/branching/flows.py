"""The data flow of the network whose checkpoint is split, if it is known."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from recon_cli.artifacts.dataflow import Dataflow
from recon_cli.checkpoints.prefixes import Unprefixed
from recon_cli.checkpoints.programs.exported import ExportedSource
from recon_cli.errors import ReconError

if TYPE_CHECKING:
    from torch.export import ExportedProgram


class SourceProgram:
    """The exported program that a checkpoint is, if it is one; opened once, when it is needed.

    :ivar allow_code: whether it may be opened although that can run code from its file.
    """

    def __init__(self, source: Unprefixed, *, allow_code: bool) -> None:
        self._source = source
        self.allow_code = allow_code

    @property
    def is_open_to(self) -> bool:
        """Whether there is a program that may be opened."""
        return self.allow_code and isinstance(self._source.source, ExportedSource)

    @cached_property
    def program(self) -> ExportedProgram:
        """The program.

        :raises ReconError: if it may not be opened, or PyTorch cannot.
        """
        from recon_cli.checkpoints.programs.loading import check_consent, load_exported

        (file,) = self._source.source.paths
        check_consent(file, "exported", allow_code=self.allow_code)
        program = load_exported(file)
        self._source.source.check_unchanged()
        return program


class FlowSource:
    """Where the data flow of a network comes from: its program, else what a profile or a search recorded.

    :ivar missing: why it is not known, once it was asked for.
    """

    def __init__(self, recorded: Dataflow | None, source: Unprefixed, program: SourceProgram) -> None:
        self._recorded = recorded
        self._prefix = source.prefix
        self._program = program
        self.missing: str | None = None

    def __call__(self, tasks: tuple[str, ...]) -> Dataflow | None:
        """The data flow for some tasks, with the names of the bare module."""
        if self._program.is_open_to:
            from recon_cli.dataflow.exported import dataflow_of_program

            try:
                return self._unprefixed(dataflow_of_program(self._program.program, tasks))
            # That the program cannot be opened or split is said where that is needed.
            except ReconError as error:
                self.missing = error.message
        if self._recorded is not None:
            return self._recorded
        self.missing = self.missing or "a ranking of what `recon profile` measured tells it, passed with `--ranking`"
        return None

    def _unprefixed(self, flow: Dataflow) -> Dataflow:
        operations = [
            operation.model_copy(
                update={
                    "reads": tuple(key.removeprefix(self._prefix) for key in operation.reads),
                    "moves": tuple(key.removeprefix(self._prefix) for key in operation.moves),
                }
            )
            for operation in flow.operations
        ]
        return Dataflow(tasks=flow.tasks, operations=tuple(operations))
