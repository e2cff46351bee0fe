"""CoNAL-Pro: from the last module backwards, tasks stay with a group or go one module earlier."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import nn

from recon_cli.search.candidates import Candidates, Path, own_path
from recon_cli.search.chain import Chain
from recon_cli.search.method import Found, Learn, task_owner
from recon_cli.search.supernet import SHARED


def conal_pro(chain: Chain, tasks: Sequence[str], learn: Learn) -> Found:
    """Learn, from the last module backwards, whether each task that has no place yet stays with it (Yue et al., 2023).

    In each stage a task that waits stays with the shared module, or takes one of its own. Those that stay are placed.
    The others become a group with a module of their own to share, and have the same choice at the module before; behind
    it they share what they shared. Where none stays, all conflict in the module, and to share another one would be the
    same again: each keeps its own copies from there on. Placed tasks go on training along their paths, as the modules
    before are theirs as well.
    """
    length = len(chain.modules)
    placed: dict[str, Path] = {}
    behind: dict[str, Path] = dict.fromkeys(tasks, ())
    copies: dict[tuple[int, str], nn.Module] = {}
    stages = []
    for place in reversed(range(length)):
        staying = {task: (SHARED,) * (place + 1) + path for task, path in behind.items()}
        leaving = {task: (SHARED,) * place + (task_owner(task),) + path for task, path in behind.items()}
        candidates = Candidates(
            chain, {t: [placed[t]] if t in placed else [staying[t], leaving[t]] for t in tasks}, copies
        )
        stages.append(learn(candidates, [place]))
        chosen = candidates.chosen()
        stayed = [task for task in behind if chosen[task] == staying[task]]
        placed |= {task: staying[task] for task in stayed}
        before = {task: path for task, path in behind.items() if task not in stayed}
        if not before:
            break
        copies = candidates.all_copies()
        behind = {}
        for task, path in before.items():
            behind[task] = _grouped(f"group {place}", path) if stayed else own_path(task_owner(task), 1, length - place)
            for later, (was, now) in enumerate(zip(path, behind[task][1:], strict=True), start=place + 1):
                if (later, now) not in copies:
                    copies[later, now] = copy.deepcopy(copies[later, was])
    return Found({task: placed.get(task) or behind[task] for task in tasks}, tuple(stages))


def _grouped(group: str, path: Path) -> Path:
    """The path of a group's task from the module that it shares with the group.

    :param path: behind that module; what is a task's own there stays so.
    """
    return (group, *(owner if owner.startswith(_OWN) else group for owner in path))


_OWN = task_owner("")
