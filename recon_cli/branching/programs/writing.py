"""Writing a branched program, with its manifest inside."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import torch
from torch.export import ExportedProgram

from recon_cli.artifacts.publish import reserve, write_all
from recon_cli.checkpoints.safetensors_writer import Digests, unknown_digests
from recon_cli.checkpoints.streaming import Advance, digests_of
from recon_cli.checkpoints.tensors import CheckpointSource
from recon_cli.checkpoints.torch_files.content import MANIFEST
from recon_cli.checkpoints.writing import Carried, CheckpointWriter

if TYPE_CHECKING:
    from typing_extensions import Buffer


class ProgramWriter(CheckpointWriter):
    """One exported program, which carries the text as one of its extra files.

    :param source: the checkpoint that the program was loaded from.
    :param program: what is written.
    """

    def __init__(self, path: Path, source: CheckpointSource, program: ExportedProgram, carried: Carried) -> None:
        self.paths = (path,)
        self._source = source
        self._program = program
        self._carried = carried

    def bytes(self) -> int:
        """The size of the file."""
        return self._size

    def write(self, descriptors: Sequence[int], advance: Advance | None = None) -> Digests:
        """Write the file."""
        digests = digests_of(self._source.tensors)
        self._source.check_unchanged()
        reserve(descriptors[0], self._size)
        self._save(_Sink(descriptors[0], advance), digests)
        return digests

    @cached_property
    def _size(self) -> int:
        # What PyTorch makes of a program is known when it has made it.
        return self._save(_Sink(None, None), unknown_digests(self._source))

    def _save(self, sink: _Sink, digests: Digests) -> int:
        torch.export.save(self._program, cast("IO[bytes]", sink), extra_files={MANIFEST: self._carried.text(digests)})
        return sink.bytes


class _Sink(io.RawIOBase):
    """A file that is written from its beginning to its end, or only counted.

    :ivar bytes: what has been written.
    """

    def __init__(self, descriptor: int | None, advance: Advance | None) -> None:
        super().__init__()
        self.bytes = 0
        self._descriptor = descriptor
        self._advance = advance

    def writable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """PyTorch wants it to be."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:  # noqa: ARG002 - what is written is not read again
        """Nothing; PyTorch goes back to the beginning when it has written all."""
        return offset

    def write(self, data: Buffer) -> int:
        """Append some bytes."""
        view = memoryview(data).cast("B")
        if self._descriptor is not None:
            write_all(self._descriptor, view, self.bytes)
        self.bytes += len(view)
        if self._advance is not None:
            self._advance(len(view))
        return len(view)
