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
    """Learn, module by module, whether each task that is not placed yet stays with it or takes one of its own.

    The tasks that stay are placed: they form a group, with copies of the modules behind. The others get modules of
    their own to share, and have the same choice at the module before. Tasks that leave before the first module have
    networks of their own. Placed tasks go on training along their paths, as the modules before are theirs as well.
    """
    length = len(chain.modules)
    placed: dict[str, Path] = {}
    stages = []
    waiting, owner = list(tasks), SHARED
    copies: dict[tuple[int, str], nn.Module] = {}
    for place in reversed(range(length)):
        behind = (owner,) * (length - place - 1)
        staying = (SHARED,) * (place + 1) + behind
        choices: dict[str, Sequence[Path]] = {
            task: [staying, (SHARED,) * place + (task_owner(task),) + behind] for task in waiting
        }
        choices |= {task: [path] for task, path in placed.items()}
        candidates = Candidates(chain, {task: choices[task] for task in tasks}, copies)
        stages.append(learn(candidates, [place]))
        chosen = candidates.chosen()
        placed |= {task: staying for task in waiting if chosen[task] == staying}
        waiting = [task for task in waiting if chosen[task] != staying]
        if not waiting:
            break
        copies, before, owner = candidates.all_copies(), owner, f"group {place}"
        # What they shared behind goes on as it was learned, with the others and with those that stay.
        copies |= {(later, owner): copy.deepcopy(copies[later, before]) for later in range(place + 1, length)}
    placed |= {task: own_path(task_owner(task), 1, length) for task in waiting}
    return Found({task: placed[task] for task in tasks}, tuple(stages))
