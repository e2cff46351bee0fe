"""Checking what a branched program computes against the program that it was split from."""

from __future__ import annotations

from pathlib import Path

from recon_cli.artifacts.manifest import Manifest
from recon_cli.branching.plan import plan_branching
from recon_cli.branching.programs.torchscript.process import stream_difference
from recon_cli.branching.runtime.behaviour import RandomNetworkError, verify_network
from recon_cli.checkpoints.programs.loading import load_exported
from recon_cli.checkpoints.sniffing import Program


class NotComparedError(Exception):
    """What two programs compute cannot be compared; the message says why."""


def program_problems(source: Path, branched: Path, manifest: Manifest, kind: Program) -> list[str]:
    """What two programs compute differently: exported ones when they are run, TorchScript by their graphs.

    :raises NotComparedError: if that cannot be told.
    :raises ReconError: if a program cannot be loaded.
    """
    return _script_problems(source, branched, manifest) if kind == "torchscript" else _run(source, branched, manifest)


def _run(source: Path, branched: Path, manifest: Manifest) -> list[str]:
    program = load_exported(source)
    if program.example_inputs is None:
        raise NotComparedError("the source carries no example inputs")
    args, kwargs = program.example_inputs
    try:
        return verify_network(program.module(), load_exported(branched).module(), manifest, *args, **kwargs)
    except RandomNetworkError:
        raise NotComparedError("the programs draw random numbers, behind the split others than before it") from None


def _script_problems(source: Path, branched: Path, manifest: Manifest) -> list[str]:
    if manifest.program is not None and manifest.program.way == "passes":
        raise NotComparedError("the branched program computes every task's pass in full")
    keys = [record.key for record in manifest.tensors]
    plan = plan_branching(keys, manifest.layers, manifest.tasks, statistics=manifest.statistics)
    found = stream_difference(source, branched, plan.behind(manifest.source.prefix))
    return [] if found is None else [found]
