"""Looking up `package.module:callable`: from the config's folder first, then in the environment."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from recon_cli.errors import ReconError, did_you_mean, quoted


@contextlib.contextmanager
def search_path(folder: Path) -> Iterator[None]:
    """Let modules be imported from a folder, before all others, while the block runs."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(entry)


def find_target(target: str) -> Callable[..., Any]:
    """Import what a target names.

    :param target: `package.module:callable`.
    :raises ReconError: if the module cannot be imported, has no such name, or the name is not callable.
    """
    module_name, _, name = target.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        wanted = error.name or module_name
        reason = "" if module_name.startswith(wanted) else f", because it imports {quoted(wanted)}, which is missing"
        raise ReconError(f"the module {quoted(module_name)} of {quoted(target)} cannot be found{reason}") from error
    except Exception as error:
        raise ReconError(
            f"the module {quoted(module_name)} of {quoted(target)} cannot be imported: {describe(error)}"
        ) from error
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ReconError(
                f"the module {quoted(module_name)} has no {quoted(name)}", did_you_mean(part, dir(found))
            ) from None
    if not callable(found):
        raise ReconError(f"{quoted(target)} is not callable; it is of type {quoted(type(found).__name__)}")
    return found  # type: ignore[no-any-return]


def call_target(what: str, target: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call what a target names.

    :param what: what the target stands for, as messages name it (`model.target`).
    :raises ReconError: with the reason, if the call fails.
    """
    try:
        return function(*args, **kwargs)
    except ReconError:
        raise
    except Exception as error:
        raise ReconError(f"{what} {quoted(target)} failed: {describe(error)}") from error


def describe(error: BaseException) -> str:
    """An error of somebody else's code as one phrase: its type and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
