"""Checking what a branched program computes against the program that it was split from."""

from __future__ import annotations

from pathlib import Path

from recon_cli.artifacts.manifest import Manifest
from recon_cli.branching.runtime.behaviour import RandomNetworkError, verify_network
from recon_cli.checkpoints.programs.loading import load_exported


class NotRunError(Exception):
    """A program cannot be compared by running it; the message says why."""


def program_problems(source: Path, branched: Path, manifest: Manifest) -> list[str]:
    """What two exported programs compute differently on the source's example inputs.

    :raises NotRunError: if the source carries none, or draws random numbers.
    :raises ReconError: if a program cannot be loaded.
    """
    program = load_exported(source)
    if program.example_inputs is None:
        raise NotRunError("the source carries no example inputs")
    args, kwargs = program.example_inputs
    try:
        return verify_network(program.module(), load_exported(branched).module(), manifest, *args, **kwargs)
    except RandomNetworkError:
        raise NotRunError("the programs draw random numbers, behind the split others than before it") from None
