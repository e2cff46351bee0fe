"""Files that another file names: they have to lie in its folder."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from recon_cli.errors import ReconError, quoted


def path_beside(anchor: Path, name: str, what: str) -> Path:
    """The path of a file that is named relative to the folder of another one.

    :param anchor: the file that names it.
    :param name: a path with `/` between its parts.
    :param what: what messages call the anchor.
    :raises ReconError: if it is not inside the folder, be it by its name or through a link.
    """
    parts = PurePosixPath(name).parts
    if not name or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        raise ReconError(
            f"{what} names the file {quoted(name)}, which is not inside its folder",
            f"write names of files in its folder alone into {what}",
        )
    path = anchor.parent / name
    # The cache of Hugging Face's hub holds an index and its shards as links into one other folder.
    homes = [anchor.parent.resolve(), anchor.resolve().parent]
    if not any(path.resolve().is_relative_to(home) for home in homes):
        raise ReconError(
            f"{quoted(path)} is a link out of the folder of {what}", f"put the file itself beside {quoted(anchor.name)}"
        )
    return path
