"""CoNAL: every task may leave the shared modules once, for its own copies of all modules behind."""

from __future__ import annotations

from collections.abc import Sequence

from recon_cli.search.candidates import Candidates, own_path
from recon_cli.search.chain import Chain
from recon_cli.search.method import Found, Learn, task_owner


def conal(chain: Chain, tasks: Sequence[str], learn: Learn) -> Found:
    """Learn in one stage at which of the branch points 1 to P each task leaves (Yue et al., AAAI 2023)."""
    length = len(chain.modules)
    points = range(1, length + 2)
    candidates = Candidates(
        chain, {task: [own_path(task_owner(task), point, length) for point in points] for task in tasks}
    )
    stage = learn(candidates, range(length))
    return Found(candidates.chosen(), (stage,))
