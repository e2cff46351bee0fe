"""The code and the files that a config names: when they change, what came of them has to be made anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from recon_cli.artifacts.digests import digest_file
from recon_cli.config.schema import LoadedConfig

_TARGET = "target"


def source_digests(loaded: LoadedConfig) -> dict[str, str]:
    """The digests of the modules in the config's folder that its targets name, and of all modules of such packages.

    What these import besides is not looked at, nor what is installed.

    :returns: path relative to the config -> digest.
    """
    names = {target.partition(":")[0].split(".")[0] for target in _targets(loaded.config.model_dump())}
    files = sorted(file for name in names for file in _files(loaded.folder, name))
    return {file.relative_to(loaded.folder).as_posix(): digest_file(file) for file in files}


def _targets(content: Any) -> Iterator[str]:
    if isinstance(content, dict):
        target = content.get(_TARGET)
        if isinstance(target, str) and ":" in target:
            yield target
    if isinstance(content, (dict, list)):
        for part in content.values() if isinstance(content, dict) else content:
            yield from _targets(part)


def _files(folder: Path, name: str) -> Iterable[Path]:
    module, package = folder / f"{name}.py", folder / name
    # A folder that is no package, such as one of data, gives way to a module of its name.
    if module.exists() and not (package / "__init__.py").exists():
        return [module]
    return package.rglob("*.py")
