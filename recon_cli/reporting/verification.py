"""The outcome of `recon verify` for people."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import RenderableType

from recon_cli.artifacts.verification import Verification
from recon_cli.errors import counted

_SHOWN = 20
_COMPARED = {
    "run": "run on the example inputs: outputs and gradients are the source's, each task's on its branches",
    "graphs": "the graphs agree: every task is computed as in the source, on its branches",
}


def verification_view(found: Verification) -> Iterable[RenderableType]:
    """Whether all agrees, and the first of what does not."""
    if found.passed:
        yield f"verified: {found.kept} tensors kept and {found.copies} copies, all bit for bit as in the source"
        if found.compared is not None:
            yield _COMPARED[found.compared]
        elif found.not_compared is not None:
            yield f"what the programs compute was not compared: {found.not_compared}"
        return
    yield f"{counted(len(found.problems), 'difference')}:"
    for problem in found.problems[:_SHOWN]:
        yield f"  {problem}"
    if len(found.problems) > _SHOWN:
        yield f"  and {len(found.problems) - _SHOWN} more"
