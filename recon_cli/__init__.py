"""Recon: finds the layers where the tasks of a multi-task network fight, and splits them.

The command line is `recon`; what it does is also here, for people's own code. Names are looked up on first use, so that
`import recon_cli` alone imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recon_cli._version import __version__
from recon_cli.errors import NonFiniteError, ReconError

if TYPE_CHECKING:
    from recon_cli.artifacts.cosines import Cosines
    from recon_cli.artifacts.dataflow import Dataflow
    from recon_cli.artifacts.manifest import BranchingCost, Manifest
    from recon_cli.artifacts.ranking import Ranking
    from recon_cli.artifacts.scores import Scores
    from recon_cli.branching.extract import extract
    from recon_cli.branching.runtime.behaviour import verify_network
    from recon_cli.branching.runtime.cost import branching_cost
    from recon_cli.branching.runtime.module import BranchedModel, branch
    from recon_cli.branching.runtime.planning import branching_plan
    from recon_cli.branching.unsplit import unsplit
    from recon_cli.checkpoints.diff import diff
    from recon_cli.dataflow.recording import dataflow_of
    from recon_cli.profiling.profiler import ConflictProfiler
    from recon_cli.updating.rotations import rotated
    from recon_cli.updating.updates import Updates

__all__ = [
    "BranchedModel",
    "BranchingCost",
    "ConflictProfiler",
    "Cosines",
    "Dataflow",
    "Manifest",
    "NonFiniteError",
    "Ranking",
    "ReconError",
    "Scores",
    "Updates",
    "__version__",
    "branch",
    "branching_cost",
    "branching_plan",
    "dataflow_of",
    "diff",
    "extract",
    "rotated",
    "unsplit",
    "verify_network",
]

_HOMES = {
    "BranchedModel": "recon_cli.branching.runtime.module",
    "BranchingCost": "recon_cli.artifacts.manifest",
    "ConflictProfiler": "recon_cli.profiling.profiler",
    "Cosines": "recon_cli.artifacts.cosines",
    "Dataflow": "recon_cli.artifacts.dataflow",
    "Manifest": "recon_cli.artifacts.manifest",
    "Ranking": "recon_cli.artifacts.ranking",
    "Scores": "recon_cli.artifacts.scores",
    "Updates": "recon_cli.updating.updates",
    "branch": "recon_cli.branching.runtime.module",
    "branching_cost": "recon_cli.branching.runtime.cost",
    "dataflow_of": "recon_cli.dataflow.recording",
    "verify_network": "recon_cli.branching.runtime.behaviour",
    "branching_plan": "recon_cli.branching.runtime.planning",
    "diff": "recon_cli.checkpoints.diff",
    "extract": "recon_cli.branching.extract",
    "rotated": "recon_cli.updating.rotations",
    "unsplit": "recon_cli.branching.unsplit",
}


def __getattr__(name: str) -> Any:
    """Import the room that a public name lives in (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
