"""The process that branches a TorchScript file: it reads what to do, and writes what it has done."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import torch

from recon_cli.branching.programs.torchscript.branching import compare_branched, write_branched
from recon_cli.branching.programs.torchscript.process import Answer, Order
from recon_cli.checkpoints.programs.loading import fixed_modes, load_script
from recon_cli.errors import ReconError, describe


def main() -> None:
    """Do what standard input says, and say on standard output what was done."""
    # What PyTorch or the file's code prints is no part of the answer.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    warnings.simplefilter("ignore")
    answers.write(_done(Order.model_validate_json(sys.stdin.read())).model_dump_json())
    answers.close()


def _done(order: Order) -> Answer:
    try:
        source = load_script(Path(order.source), torch.device("cpu"))
    except ReconError as error:
        return Answer(reason=f"it cannot be opened: {describe(error.__cause__ or error)}")
    try:
        if not order.ways:
            compare_branched(source, order.plan, Path(order.target))
            return Answer()
        way, reason = write_branched(source, order.plan, order.ways, Path(order.target))
    except ReconError as error:
        return Answer(reason=error.message, hint=error.hint)
    modes = list(fixed_modes(source.inlined_graph))
    return Answer(way=way, reason=reason, training=sum(modes), evaluating=len(modes) - sum(modes))


if __name__ == "__main__":
    main()
