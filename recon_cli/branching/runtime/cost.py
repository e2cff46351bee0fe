"""What a split costs in operations: the branched network against the network that was not split."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn

from recon_cli.artifacts.manifest import BranchingCost, Manifest, SplitPlan
from recon_cli.branching.costs import cost_of
from recon_cli.branching.manifests import read_record
from recon_cli.branching.runtime.planning import plan_for
from recon_cli.checkpoints.state_dict import tied_groups
from recon_cli.dataflow.recording import dataflow_of


def branching_cost(
    model: nn.Module, split: Manifest | SplitPlan | str | os.PathLike[str], /, *args: Any, **kwargs: Any
) -> BranchingCost:
    """Count the operations of a network before and after a split, on an example batch.

    All that lies behind a split layer is computed once for every stream, so splitting the first layer of a network
    costs the whole network once for every task, however few parameters it adds. The network runs once, by itself, and
    stays as it is (:func:`recon_cli.dataflow_of`).

    :param model: the network that is, or would be, split.
    :param split: a manifest, or a plan that `recon split --dry-run --json` prints, or the path of one of them or of a
        branched checkpoint.
    :param args: the example batch, as the network takes it.
    :raises ReconError: if the split is of another network, or what the network does cannot be followed.
    """
    if not isinstance(split, (Manifest, SplitPlan)):
        split = read_record(Path(split))
    plan = plan_for(model, split)
    flow = dataflow_of(model, plan.tasks, *args, **kwargs)
    groups = tied_groups(model.state_dict(keep_vars=True))
    return cost_of(flow, plan.layers, {name: group[0] for group in groups for name in group[1:]})
