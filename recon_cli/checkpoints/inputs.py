"""A file that is read: opened once, read at offsets, and watched for changes meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

from recon_cli.errors import ReconError, quoted


class InputFile:
    """An open file.

    :param path: a regular file.
    :ivar size: its bytes when it was opened.
    :raises ReconError: if it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise ReconError(f"cannot read {quoted(path)}: {error.strerror}") from None
        self._opened = os.fstat(self.descriptor)
        self.size = self._opened.st_size

    def read(self, offset: int, length: int) -> bytes:
        """The bytes of a range.

        :raises ReconError: if the file ends before the range does, or cannot be read.
        """
        pieces = []
        while length:
            piece = self._pread(offset, length)
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill a buffer, or a part of it, from an offset on, and return the number of bytes.

        :raises ReconError: if the file ends at the offset, or cannot be read.
        """
        try:
            read = os.preadv(self.descriptor, [buffer], offset)
        except OSError as error:
            raise self._unreadable(error) from None
        if read == 0:
            raise self._shorter()
        return read

    def check_unchanged(self) -> None:
        """Refuse a file that was modified since it was opened.

        :raises ReconError: naming it.
        """
        now = os.fstat(self.descriptor)
        if (now.st_size, now.st_mtime_ns) != (self._opened.st_size, self._opened.st_mtime_ns):
            raise ReconError(f"{quoted(self.path)} was changed while it was read", "run the command again")

    def close(self) -> None:
        """Let go of the file."""
        os.close(self.descriptor)

    def _pread(self, offset: int, length: int) -> bytes:
        # Never ask for more than there is: the system may set the memory aside first.
        if offset + length > self.size:
            raise self._shorter()
        try:
            data = os.pread(self.descriptor, length, offset)
        except OSError as error:
            raise self._unreadable(error) from None
        if not data:
            raise self._shorter()
        return data

    def _shorter(self) -> ReconError:
        return ReconError(f"{quoted(self.path)} became shorter while it was read, or is cut off")

    def _unreadable(self, error: OSError) -> ReconError:
        return ReconError(f"cannot read {quoted(self.path)}: {error.strerror}")
