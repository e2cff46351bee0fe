"""A branched TorchScript module, made in the best way that its network allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from recon_cli.artifacts.manifest import Way
from recon_cli.branching.plan import BranchingPlan
from recon_cli.branching.programs.torchscript.checking import check_streams
from recon_cli.branching.programs.torchscript.forking import fork_script
from recon_cli.branching.programs.torchscript.normalising import ScriptGraph, normalised
from recon_cli.branching.programs.torchscript.outputs import check_outputs
from recon_cli.branching.programs.torchscript.passes import repeat_script
from recon_cli.branching.programs.torchscript.places import Places
from recon_cli.checkpoints.programs.loading import load_script
from recon_cli.errors import ReconError, describe, quoted

_WAYS: Mapping[Way, Callable[[Any, ScriptGraph, BranchingPlan], Any]] = {"fork": fork_script, "passes": repeat_script}


def write_branched(source: Any, plan: BranchingPlan, ways: Sequence[Way], target: Path) -> tuple[Way, str | None]:
    """Write a branched TorchScript file that plain torch loads; it was loaded again, and looked at.

    :param source: a `torch.jit.ScriptModule`, which is left alone.
    :param plan: of its state dict.
    :param ways: those that are tried, in this order.
    :returns: the way, and why it is none of those before it.
    :raises ReconError: if there is none, or the network's outputs do not fit the tasks.
    """
    _check_hooks(source)
    script = normalised(source)
    check_outputs(script, plan.tasks)
    reason: str | None = None
    for way in ways:
        try:
            module = _WAYS[way](source, script, plan)
            torch.jit.save(module, str(target))
            loaded = load_script(target, torch.device("cpu"))
            if way == "fork":
                check_streams(script, normalised(module, simplified=False), plan.tasks, Places(plan).of)
                check_streams(normalised(module), normalised(loaded), plan.tasks, lambda name, _: name)
            return way, reason
        except ReconError as error:
            reason = error.message
        # What torch has to say against a graph.
        except RuntimeError as error:
            reason = describe(error)
    raise ReconError(str(reason), "name the output .safetensors for the weights alone")


def compare_branched(source: Any, plan: BranchingPlan, branched: Path) -> None:
    """Compare the streams of a forked TorchScript file with its source's.

    :param plan: of the source's state dict.
    :raises ReconError: naming a task that is computed otherwise.
    """
    loaded = load_script(branched, torch.device("cpu"))
    check_streams(normalised(source), normalised(loaded, simplified=False), plan.tasks, Places(plan).of)


def _check_hooks(source: Any) -> None:
    for name, module in source.named_modules():
        if module._c._get_forward_hooks() or module._c._get_forward_pre_hooks():
            raise ReconError(f"the module {quoted(name)} has hooks, which a branched TorchScript file would lose")
