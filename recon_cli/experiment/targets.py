"""Looking up `package.module:callable`: from the config's folder first, then in the environment."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from recon_cli.errors import ReconError, describe, did_you_mean, quoted, raised_in_worker


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


@contextlib.contextmanager
def user_code(what: str) -> Iterator[None]:
    """Turn whatever goes wrong in somebody else's code into an error that says where.

    :param what: what runs in the block, as messages name it (`the model`).
    """
    try:
        yield
    except ReconError as error:
        sent = raised_in_worker(error)
        if sent is not None:
            raise sent from error
        raise
    except torch.OutOfMemoryError as error:
        raise ReconError(f"{what} ran out of memory: {describe(error)}", "lower `data.batch_size`") from error
    # A script that is imported may end itself, which must not end the command as if all were well.
    except (Exception, SystemExit) as error:
        raise ReconError(f"{what} failed: {describe(error)}") from error


def find_target(target: str) -> Callable[..., Any]:
    """Import what a target names.

    :param target: `package.module:callable`.
    :raises ReconError: if the module cannot be imported, has no such name, or the name is not callable.
    """
    module_name, _, name = target.partition(":")
    with user_code(f"the import of {quoted(module_name)} for {quoted(target)}"):
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise _not_found(module_name, target, error.name or module_name) from error
        for part in name.split("."):
            if not hasattr(found, part):
                raise ReconError(
                    f"the module {quoted(module_name)} has no {quoted(name)}", did_you_mean(part, dir(found))
                )
            found = getattr(found, part)
    if not callable(found):
        raise ReconError(f"{quoted(target)} is not callable; it is of type {quoted(type(found).__name__)}")
    return found  # type: ignore[no-any-return]


def call_target(what: str, target: str, /, **kwargs: Any) -> Any:
    """Call what a target names.

    :param what: what the target stands for, as messages name it (`model.target`).
    :raises ReconError: with the reason, if it cannot be found or the call fails.
    """
    function = find_target(target)
    with user_code(f"{what} {quoted(target)}"):
        return function(**kwargs)


def _not_found(module_name: str, target: str, missing: str) -> ReconError:
    if f"{module_name}.".startswith(f"{missing}."):
        return ReconError(f"the module {quoted(module_name)} of {quoted(target)} cannot be found")
    return ReconError(
        f"the module {quoted(module_name)} of {quoted(target)} imports {quoted(missing)}, which cannot be found"
    )
