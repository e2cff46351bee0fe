"""Task names: which are allowed, and the identifiers that stand for them in a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Sequence
from keyword import iskeyword

from recon_cli.errors import ReconError, counted, listed, quoted


def check_task_name(name: str) -> str:
    """Return a task's name if it may be one.

    :raises ValueError: if it is empty, begins or ends with a blank, or holds a dot, slash, comma or control character.
    """
    if not name:
        raise ValueError("a task's name is empty")
    if not name.isprintable():
        raise ValueError(f"the task name {quoted(name)} holds a control or invisible character")
    if name != name.strip():
        raise ValueError(f"the task name {quoted(name)} begins or ends with a blank")
    for character, what in {".": "dot", "/": "slash", "\\": "backslash", ",": "comma"}.items():
        if character in name:
            raise ValueError(f"the task name {quoted(name)} holds a {what}")
    return name


def check_tasks(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of a network's tasks if they may be that: two or more, all different.

    :raises ReconError: naming the task.
    """
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ReconError(f"{quoted(names)} is no list of task names", 'give one such as ["segmentation", "depth"]')
    try:
        names = tuple(check_task_name(name) for name in names)
    except ValueError as error:
        raise ReconError(str(error), "rename the task") from None
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ReconError(f"the task {listed(repeated)} is named twice", "give every task its own name")
    if len(names) < 2:
        raise ReconError(
            f"{counted(len(names), 'task')} named, but conflicts arise between at least two",
            "name two tasks or more",
        )
    return names


def branch_ids(names: Sequence[str]) -> tuple[str, ...]:
    """An identifier for each name: unique among them, and the name itself where it may be one.

    PyTorch's module names may hold no dots, TorchScript's attributes have to be identifiers, and an identifier may not
    be an attribute that every module has.
    """
    taken = {name for name in names if _may_be_id(name)}
    ids = []
    for name in names:
        if _may_be_id(name):
            ids.append(name)
            continue
        base = re.sub(r"\W", "_", name)
        base = base if _may_be_id(base) else f"t{base}"
        number, candidate = 2, base
        while candidate in taken:
            candidate, number = f"{base}_{number}", number + 1
        taken.add(candidate)
        ids.append(candidate)
    return tuple(ids)


def _may_be_id(name: str) -> bool:
    return name.isidentifier() and not name.startswith("_") and not iskeyword(name) and name != "training"
