"""Files under construction, next to the place where they will appear.

A file is written without a name (`O_TMPFILE`) and linked into its folder when it is complete, so that even a killed
process leaves nothing behind. Where the file system has no unnamed files, a hidden sibling takes that place; its writer
holds a lock on it, by which the next writer knows a sibling that a killed one has left, and removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
from pathlib import Path
from types import TracebackType

_NO_UNNAMED_FILES = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT}
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NO_SYNC = {errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF}

_OPEN_FILES = Path("/proc/self/fd")
"""Where an unnamed file can be linked from; it is missing in some containers."""


class OutputFolder:
    """The folder in which files are to appear: opened once, so that they appear in it whatever becomes of its path.

    :param path: the folder.
    :raises OSError: if there is no such folder.
    """

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def lock(self) -> None:
        """Wait until no other writer of Recon names files in this folder, and keep them waiting until `unlock`.

        Some network file systems have no such locks; there, writers that replace the same files are not kept apart.
        """
        with contextlib.suppress(OSError):
            fcntl.flock(self.descriptor, fcntl.LOCK_EX)

    def unlock(self) -> None:
        """Let the others go on."""
        with contextlib.suppress(OSError):
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)

    def sweep(self, name: str) -> None:
        """Remove the hidden siblings of a file that no living process holds; the folder has to be locked."""
        pattern = re.compile(re.escape(_sibling_prefix(name)) + r"[0-9a-f]{12}\.tmp")
        for sibling in filter(pattern.fullmatch, os.listdir(self.descriptor)):  # noqa: PTH208  (a path cannot be listed by its descriptor)
            # It is held, gone, not ours, or on a file system without locks.
            with contextlib.suppress(OSError):
                descriptor = os.open(sibling, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self.descriptor)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(sibling, dir_fd=self.descriptor)
                finally:
                    os.close(descriptor)

    def sync(self) -> None:
        """Bring the names to disk."""
        try:
            os.fsync(self.descriptor)
        except OSError as error:
            if error.errno not in _NO_SYNC:
                raise

    def __enter__(self) -> OutputFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.descriptor)


class StagedFile:
    """A file under construction.

    :param path: its name once it is published.
    :param folder: the folder of that path.
    :param overwrite: whether a file of that name is replaced.
    :ivar descriptor: the file, open for reading and writing.
    """

    def __init__(self, path: Path, folder: OutputFolder, *, overwrite: bool) -> None:
        self.path = path
        self._folder = folder.descriptor
        self._overwrite = overwrite
        self._sibling: str | None = None
        self._replaced: str | None = None
        self._published = False
        try:
            unnamed = getattr(os, "O_TMPFILE", 0) if _OPEN_FILES.exists() else 0
            self.descriptor = os.open(".", unnamed | os.O_RDWR, 0o666, dir_fd=self._folder)
        except OSError as error:
            if error.errno not in _NO_UNNAMED_FILES:
                raise
            name = self._sibling_name()
            self.descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=self._folder)
            self._sibling = name
            with contextlib.suppress(OSError):
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def set_aside(self, *, visible: bool) -> None:
        """Keep the file that is replaced, if there is one, under a hidden name until `close`.

        :param visible: whether it keeps its own name as well.
        """
        if not self._overwrite:
            return
        name = self._sibling_name()
        with contextlib.suppress(FileNotFoundError):
            if not (visible and self._link(self.path.name, name)):
                os.rename(self.path.name, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            self._replaced = name

    def publish(self) -> None:
        """Give the file its name.

        :raises FileExistsError: if the name is taken and `overwrite` is off.
        """
        if self._sibling is None and self._overwrite:
            name = self._sibling_name()
            self._link_unnamed(name)
            self._sibling = name
        if self._sibling is None:
            self._link_unnamed(self.path.name)
        elif self._overwrite:
            self._rename(self._sibling)
        elif not self._link(self._sibling, self.path.name):
            # Without hard links nothing but the folder's lock keeps others from taking the name at this moment.
            if _exists(self.path.name, self._folder):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            self._rename(self._sibling)
        self._published = True

    def withdraw(self) -> None:
        """Take the file back if it was published, and let what was set aside return."""
        if self._replaced is not None:
            name, self._replaced = self._replaced, None
            os.replace(name, self.path.name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            # Between two names of one file, rename(2) does nothing.
            self._unlink(name)
        elif self._published:
            self._unlink(self.path.name)
        self._published = False

    def close(self) -> None:
        """Let go of the file; nothing hidden is left."""
        try:
            os.close(self.descriptor)
        finally:
            for name in (self._sibling, self._replaced):
                if name is not None:
                    self._unlink(name)

    def _sibling_name(self) -> str:
        return f"{_sibling_prefix(self.path.name)}{secrets.token_hex(6)}.tmp"

    def _rename(self, sibling: str) -> None:
        os.replace(sibling, self.path.name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        self._sibling = None

    def _link_unnamed(self, name: str) -> None:
        # Given a folder, Python calls linkat(2), which alone follows the link of an unnamed file.
        os.link(_OPEN_FILES / str(self.descriptor), name, dst_dir_fd=self._folder, follow_symlinks=True)

    def _link(self, source: str, name: str) -> bool:
        """Give a file of the folder another name; False if the file system has no hard links."""
        try:
            os.link(source, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except OSError as error:
            if error.errno in _NO_HARD_LINKS:
                return False
            raise
        return True

    def _unlink(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._folder)


def _sibling_prefix(name: str) -> str:
    """How the names of a file's hidden siblings begin: short, whatever the file's own length and encoding."""
    return f".{os.fsencode(name)[:80].decode('utf-8', 'ignore')}."


def _exists(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
