"""Whole files or none: an output appears under its name complete and synced, or not at all.

A file is written without a name (`O_TMPFILE`) and linked into its folder when it is complete, so that even a killed
process leaves nothing behind; where the file system has no unnamed files, a hidden sibling takes that place. The link
fails if the name was taken meanwhile, so of two writers one wins and neither overwrites the other.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

from recon_cli.errors import ReconError, quoted

_NO_UNNAMED_FILES = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT}


def check_output(path: Path, *, overwrite: bool, inputs: Iterable[Path] = ()) -> None:
    """Refuse an output path before any work is done for it.

    :param path: where a file is to be published.
    :param overwrite: whether the user asked for an existing file to be replaced.
    :param inputs: files that are read meanwhile; the output may be none of them, by any name.
    :raises ReconError: naming the path, if it could not be published.
    """
    for source in inputs:
        if source.exists() and path.exists() and source.samefile(path):
            raise ReconError(f"the output {quoted(path)} is the input {quoted(source)}", "choose another output name")
    if not path.name or path.name == "..":
        raise ReconError(f"{quoted(path)} is no name for a file", "name the output file")
    if not path.parent.is_dir():
        what = "is not a folder" if path.parent.exists() else "does not exist"
        raise ReconError(f"cannot write {quoted(path)}: its folder {quoted(path.parent)} {what}")
    if path.is_symlink() or path.exists():
        if not overwrite:
            raise _exists(path)
        if path.is_symlink() or not stat.S_ISREG(path.stat().st_mode):
            raise ReconError(f"cannot replace {quoted(path)}: it is not a regular file")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ReconError(f"cannot write {quoted(path)}: its folder {quoted(path.parent)} is not writable")


class StagedFile:
    """A file under construction, next to the place where it will appear.

    :param path: its name once it is published.
    :param overwrite: whether a file of that name is replaced.
    """

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        self.path = path
        self._overwrite = overwrite
        self._sibling: Path | None = None
        self._published = False
        self._replaced: Path | None = None
        try:
            self.descriptor = os.open(path.parent, getattr(os, "O_TMPFILE", 0) | os.O_RDWR, 0o666)
        except OSError as error:
            if error.errno not in _NO_UNNAMED_FILES:
                raise
            self._sibling = self._sibling_name()
            self.descriptor = os.open(self._sibling, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)

    def publish(self) -> None:
        """Sync the file to disk and give it its name.

        :raises ReconError: if the name was taken meanwhile and `overwrite` is off.
        """
        os.fsync(self.descriptor)
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if self._overwrite:
                if self._sibling is None:
                    sibling = self._sibling_name()
                    self._link(folder, sibling.name)
                    self._sibling = sibling
                if self.path.exists():
                    replaced = self._sibling_name()
                    os.link(self.path, replaced)
                    self._replaced = replaced
                self._sibling.replace(self.path)
                self._sibling = None
            else:
                self._link(folder, self.path.name)
            self._published = True
            os.fsync(folder)
        except FileExistsError:
            raise _exists(self.path) from None
        finally:
            os.close(folder)

    def withdraw(self) -> None:
        """Take a published file back, because one that belongs to it could not be; what it replaced returns."""
        if not self._published:
            return
        if self._replaced is not None:
            self._replaced.replace(self.path)
            self._replaced = None
        else:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> StagedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.descriptor)
        for leftover in (self._sibling, self._replaced):
            if leftover is not None:
                leftover.unlink(missing_ok=True)

    def _sibling_name(self) -> Path:
        return self.path.with_name(f".{self.path.name[:80]}.{secrets.token_hex(6)}.tmp")

    def _link(self, folder: int, name: str) -> None:
        source = f"/proc/self/fd/{self.descriptor}" if self._sibling is None else str(self._sibling)
        # `dst_dir_fd` makes Python call linkat(2), which alone follows the link of an unnamed file.
        os.link(source, name, dst_dir_fd=folder, follow_symlinks=True)


@contextlib.contextmanager
def publishing(paths: Sequence[Path], *, overwrite: bool) -> Iterator[list[StagedFile]]:
    """Write several files that belong together; they appear when the block ends without an error, or none does.

    :param paths: the names of the files, in the order in which they appear.
    :param overwrite: whether existing files are replaced.
    """
    with _naming(paths), contextlib.ExitStack() as stack:
        files = [stack.enter_context(StagedFile(path, overwrite=overwrite)) for path in paths]
        yield files
        done: list[StagedFile] = []
        try:
            for file in files:
                file.publish()
                done.append(file)
        except BaseException:
            for file in done:
                file.withdraw()
            raise


@contextlib.contextmanager
def _naming(paths: Sequence[Path]) -> Iterator[None]:
    """Let errors of the system name the output, not the file that stands in for it meanwhile."""
    try:
        yield
    except OSError as error:
        names = " and ".join(quoted(path) for path in paths)
        raise ReconError(f"cannot write {names}: {error.strerror}") from error


def write_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at `offset`, however many calls that takes."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view = view[written:]
        offset += written


def reserve(descriptor: int, size: int) -> None:
    """Set the room for a file aside, so that a full disk shows before anything is written."""
    if hasattr(os, "posix_fallocate") and size:
        os.posix_fallocate(descriptor, 0, size)


def publish_bytes(path: Path, data: bytes, *, overwrite: bool) -> None:
    """Publish one file of known content."""
    with publishing([path], overwrite=overwrite) as (file,):
        write_all(file.descriptor, data, 0)


def _exists(path: Path) -> ReconError:
    return ReconError(f"{quoted(path)} exists already", "pass --force to replace it, or choose another name")
