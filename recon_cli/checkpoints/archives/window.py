"""The part of a file in which an archive lies; archives lie within others, and one after the other."""

from __future__ import annotations

from recon_cli.checkpoints.inputs import InputFile
from recon_cli.errors import ReconError, quoted

BLOCK_BYTES = 4096
"""Small records close to each other are read together."""


class Window:
    """A range of an open file that holds one archive.

    :ivar name: what messages call the archive.
    :raises ReconError: if the file ends before the range does.
    """

    def __init__(self, file: InputFile, offset: int, length: int | None) -> None:
        self.file = file
        self.offset = offset
        self.length = file.size - offset if length is None else length
        whole = offset == 0 and self.length == file.size
        self.name = quoted(file.path) if whole else f"the archive at byte {offset} of {quoted(file.path)}"
        if offset < 0 or self.length < 0 or offset + self.length > file.size:
            raise self.damaged("it reaches beyond the end of the file")
        self._block = b""
        self._block_at = 0

    def read(self, at: int, length: int) -> bytes:
        """The bytes of a range that begins `at` bytes into the window.

        :raises ReconError: if the window ends before it does.
        """
        if at + length > self.length:
            raise self.damaged("it ends within a record")
        return self.file.read(self.offset + at, length)

    def near(self, at: int, length: int) -> tuple[bytes, int]:
        """Bytes of the window that hold a short range, and where in them it begins.

        :raises ReconError: if the window ends before the range does.
        """
        begin = at - self._block_at
        if begin < 0 or begin + length > len(self._block):
            self._block = self.read(at, max(length, min(BLOCK_BYTES, self.length - at)))
            self._block_at, begin = at, 0
        return self._block, begin

    def broken(self, reason: str) -> ReconError:
        """The error that says what is wrong with the archive."""
        return ReconError(f"{self.name} is not a valid torch archive: {reason}")

    def damaged(self, reason: str) -> ReconError:
        """The error for an archive of which a part is missing."""
        return ReconError(f"{self.name} is cut off or damaged: {reason}", "copy or download the file again")
