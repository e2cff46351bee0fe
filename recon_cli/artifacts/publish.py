"""Whole files or none: an output appears under its name complete and synced, or not at all.

Naming a file fails if the name was taken meanwhile, so of two writers one wins and neither overwrites the other.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from recon_cli.artifacts.signals import HeldSignals
from recon_cli.artifacts.staging import OutputFolder, StagedFile
from recon_cli.errors import ReconError, quoted

_NO_RESERVATION = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}


def check_output(path: Path, *, overwrite: bool, inputs: Iterable[Path] = ()) -> None:
    """Refuse an output path before any work is done for it.

    :param path: where a file is to be published.
    :param overwrite: whether the user asked for an existing file to be replaced.
    :param inputs: files that are read meanwhile; the output may be none of them, by any name.
    :raises ReconError: naming the path, if it could not be published.
    """
    for source in inputs:
        if _is_same_file(source, path):
            raise ReconError(f"the output {quoted(path)} is the input {quoted(source)}", "choose another output name")
    with _naming([path]):
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


def make_folder(path: Path) -> None:
    """Make a folder, and those that it lies in, unless they are there.

    :raises ReconError: if one cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReconError(f"cannot make the folder {quoted(path)}: {error.strerror}") from None


def _is_same_file(source: Path, path: Path) -> bool:
    try:
        return source.samefile(path)
    except OSError:
        # One of them is not there, or cannot be: whoever opens it says so.
        return False


@contextlib.contextmanager
def publishing(paths: Sequence[Path], *, overwrite: bool) -> Iterator[list[StagedFile]]:
    """Write several files that belong together; they appear when the block ends without an error, or none does.

    While files are replaced, those after the first are gone for a moment, so that nobody takes an old one for a part of
    the new ones. Of writers to the same names the last wins, with all of its files.

    :param paths: the names of the files, in one folder, in the order in which they appear.
    :param overwrite: whether existing files are replaced.
    :raises ReconError: if a file cannot be written, or a name was taken meanwhile and `overwrite` is off.
    """
    (parent,) = {path.parent for path in paths}
    with HeldSignals() as signals, contextlib.ExitStack() as stack:
        with _naming(paths):
            folder = stack.enter_context(OutputFolder(parent))
            files = []
            with _locked(folder, signals):
                for path in paths:
                    folder.sweep(path.name)
                    files.append(StagedFile(path, folder, overwrite=overwrite))
                    stack.callback(files[-1].close)
        with _naming(paths, descriptors_only=True), signals.let_in():
            yield files
        with _naming(paths):
            with signals.let_in():
                for file in files:
                    os.fsync(file.descriptor)
            with _locked(folder, signals):
                _publish(files, folder)


def _publish(files: Sequence[StagedFile], folder: OutputFolder) -> None:
    try:
        for file in files:
            file.set_aside(visible=file is files[0])
        for file in files:
            try:
                file.publish()
            except FileExistsError:
                raise _exists(file.path) from None
        folder.sync()
    except BaseException:
        with contextlib.ExitStack() as stack:
            for file in files:
                stack.callback(file.withdraw)
        raise


@contextlib.contextmanager
def _locked(folder: OutputFolder, signals: HeldSignals) -> Iterator[None]:
    with signals.let_in():
        folder.lock()
    try:
        yield
    finally:
        folder.unlock()


@contextlib.contextmanager
def _naming(paths: Sequence[Path], *, descriptors_only: bool = False) -> Iterator[None]:
    """Let errors of the system name the output, not the file that stands in for it meanwhile.

    :param descriptors_only: leave errors alone that name a file: it is another one.
    """
    try:
        yield
    except OSError as error:
        if descriptors_only and error.filename is not None:
            raise
        names = " and ".join(quoted(path) for path in paths)
        raise ReconError(f"cannot write {names}: {error.strerror or error}") from error


def reserve(descriptor: int, size: int) -> None:
    """Take the space that a file will fill, where the file system can: a full disk shows before anything is written.

    :param size: the size in bytes, which the file has from then on.
    """
    if not hasattr(os, "posix_fallocate") or size == 0:
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in _NO_RESERVATION:
            raise


def write_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at `offset`, however many calls that takes."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view = view[written:]
        offset += written


def publish_bytes(path: Path, data: bytes, *, overwrite: bool) -> None:
    """Publish one file of known content."""
    with publishing([path], overwrite=overwrite) as (file,):
        write_all(file.descriptor, data, 0)


def _exists(path: Path) -> ReconError:
    return ReconError(f"{quoted(path)} exists already", "pass --force to replace it, or choose another name")
