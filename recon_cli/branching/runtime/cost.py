"""What a split costs in operations: the branched network against the network that was not split."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import BaseTorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from recon_cli.artifacts.manifest import Manifest, SplitLayer, SplitPlan
from recon_cli.branching.manifests import read_record
from recon_cli.branching.plan import BranchingPlan, plan_branching
from recon_cli.branching.runtime.module import BranchedModel, plan_for
from recon_cli.dataflow.flops import FORMULAS
from recon_cli.random_states import random_states, set_random_states


@dataclass(frozen=True)
class BranchingCost:
    """The floating-point operations of a forward pass, as torch counts them: matrix products and convolutions.

    :ivar shared: those of the network that was not split.
    :ivar branched: those of the branched network, its trunk once and every stream with its own task's head alone.
    :ivar by_layer: for every split layer, those of the network with this layer alone split.
    """

    shared: int
    branched: int
    by_layer: Mapping[str, int]

    @property
    def ratio(self) -> float:
        """The branched network's operations relative to those of the network that was not split."""
        return self.branched / self.shared if self.shared else 1.0

    def added_by(self, layer: str) -> float:
        """What splitting a layer alone adds, relative to the network that was not split."""
        return self.by_layer[layer] / self.shared - 1 if self.shared else 0.0


def branching_cost(
    model: nn.Module, split: Manifest | SplitPlan | str | os.PathLike[str], *args: Any, **kwargs: Any
) -> BranchingCost:
    """Count the operations of a network before and after a split, on an example batch.

    All that lies behind a split layer is computed once for every stream, so splitting the first layer of a network
    costs the whole network once for every task, however few parameters it adds. The network stays as it is.

    :param model: the network that is, or would be, split.
    :param split: a manifest, or a plan that `recon split --dry-run --json` prints, or the path of one of them or of a
        branched checkpoint.
    :param args: the example batch, as the network takes it.
    :raises ReconError: if the split is of another network, or the network cannot be taken apart.
    """
    if not isinstance(split, (Manifest, SplitPlan)):
        split = read_record(Path(split))
    plan = plan_for(model, split)
    was_random = random_states()
    try:
        shared = copy.deepcopy(model).eval()
        count = _counted(lambda: shared(*args, **kwargs))
        return BranchingCost(
            shared=count,
            branched=_branched(model, plan, args, kwargs),
            by_layer={
                layer.name: _branched(model, _alone(model, layer, plan.tasks), args, kwargs) for layer in plan.layers
            },
        )
    finally:
        set_random_states(was_random)


def _alone(model: nn.Module, layer: SplitLayer, tasks: Sequence[str]) -> BranchingPlan:
    return plan_branching(model.state_dict(keep_vars=True), [layer], tasks)


def _branched(model: nn.Module, plan: BranchingPlan, args: Any, kwargs: Any) -> int:
    branched = BranchedModel(copy.deepcopy(model), plan).eval()
    # The first run finds out which heads are needless in which stream.
    _counted(lambda: branched(*args, **kwargs))
    return _counted(lambda: branched(*args, **kwargs))


def _counted(run: Callable[[], object]) -> int:
    counter = FlopCounterMode(display=False, custom_mapping=dict(FORMULAS))
    # Under a mode, as the branched network runs under one, layers take no shortcuts that are not counted.
    with torch.no_grad(), BaseTorchFunctionMode(), counter:
        run()
    return int(counter.get_total_flops())
