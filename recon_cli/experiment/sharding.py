"""Networks whose parameters are sharded over the ranks (FSDP2), so that no device holds all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map, tree_map_only

from recon_cli.config.schema import Config
from recon_cli.errors import ReconError, quoted
from recon_cli.experiment.ranks import Ranks
from recon_cli.experiment.targets import user_code

UNIT_SHARE = 0.01
"""What part of all parameters a block has to hold to be gathered by itself."""

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_WHOLE = "whole"
_SHAPE = "shape of a whole"


def check_can_be_sharded(config: Config, *, branched: bool) -> None:
    """Refuse what does not work with a sharded network.

    :raises ReconError: naming it.
    """
    hint = "leave out `train.sharded`"
    if branched:
        raise ReconError("a branched network cannot be sharded", f"{hint}, or train without --manifest")
    if config.model.target is None:
        raise ReconError(
            "a network from a file cannot be sharded", f"{hint}, or name what makes it under `model.target`"
        )
    for task in config.tasks:
        if task.partial:
            raise ReconError(
                f"task {quoted(task.name)} is `partial`, but the ranks of a sharded network go through all of it "
                f"together, so every rank needs every label",
                f"{hint}, or `partial`",
            )
    if config.train.conflicts is not None and config.profile.features:
        raise ReconError(
            "`profile.features` cannot be measured on a sharded network", f"{hint}, `train.conflicts` or the features"
        )


def shard(model: nn.Module, ranks: Ranks, device: torch.device) -> None:
    """Shard a network over all ranks, with the values of the first; from then on each holds a part of every parameter.

    A block that runs has its parameters gathered for as long, by the units that `units_of` names; what is left, in
    none of them, is one unit more.

    :param model: on the CPU or on `device`; it is on `device` afterwards.
    :param device: where this rank computes.
    :raises ReconError: if it has parameters that cannot be sharded.
    """
    # It takes a second, which only sharded trainings should.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            # The group may not be able to send what is on the CPU.
            first = tensor.to(device)
            ranks.copy_first([first])
            tensor.copy_(first)
    mesh = init_device_mesh(device.type, (ranks.size,))
    with user_code("the sharding of the model"):
        for unit in (*units_of(model), model):
            fully_shard(unit, mesh=mesh, reshard_after_forward=True)


def units_of(model: nn.Module) -> list[nn.Module]:
    """The blocks of a network that are gathered by themselves when they run.

    These are the items of `nn.Sequential`, `nn.ModuleList` and `nn.ModuleDict` that hold `UNIT_SHARE` of all parameters
    or more, none of which is used elsewhere; inner ones before outer ones. They have to be called as modules.
    """
    least = UNIT_SHARE * _size(model)
    uses = _uses(model)
    found = {
        item: None
        for module in model.modules()
        if isinstance(module, _CONTAINERS)
        for item in module.children()
        if not isinstance(item, (nn.ModuleList, nn.ModuleDict)) and _size(item) >= max(least, 1)
    }
    whole = [unit for unit in found if all(uses[key] == number for key, number in _uses(unit).items())]
    return whole[::-1]


def whole_state_dict(model: nn.Module, ranks: Ranks) -> dict[str, torch.Tensor]:
    """The state dict with whole tensors; those of a sharded network are empty on all ranks but the first.

    All ranks call it together.
    """
    return {name: _whole(value, ranks) for name, value in model.state_dict().items()}


def gathered(state: Any, ranks: Ranks) -> Any:
    """A state of nested containers with whole tensors for sharded ones, as the first rank can save it.

    All ranks call it together; on the others these tensors are empty.
    """
    from torch.distributed.tensor import DTensor, Shard

    def gather(leaf: DTensor) -> dict[str, Any]:
        (placement,) = leaf.placements
        return {_WHOLE: _whole(leaf, ranks), "dim": placement.dim if isinstance(placement, Shard) else None}

    return tree_map_only(DTensor, gather, state)


def distributed_from_first(state: Any, model: nn.Module, ranks: Ranks) -> Any:
    """What the first rank gives here, which `gathered` made, with sharded tensors again.

    All ranks call it together. Whole tensors are sent one after the other, so that no device holds more than one.

    :param model: the sharded network.
    """
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

    parameter = next(model.parameters())
    assert isinstance(parameter, DTensor)
    mesh, device = parameter.device_mesh, parameter.device
    whole: list[torch.Tensor] = []

    def take_out(leaf: Any) -> Any:
        if not _is_marked(leaf, _WHOLE):
            return leaf
        tensor = leaf[_WHOLE]
        whole.append(tensor)
        return {_SHAPE: tensor.shape, "dtype": tensor.dtype, "dim": leaf["dim"]}

    def put_in(leaf: Any) -> Any:
        if not _is_marked(leaf, _SHAPE):
            return leaf
        tensor = whole.pop(0) if ranks.rank == 0 else torch.empty(leaf[_SHAPE], dtype=leaf["dtype"])
        placement = Replicate() if leaf["dim"] is None else Shard(leaf["dim"])
        return distribute_tensor(tensor.to(device), mesh, [placement])

    outline = ranks.from_first(tree_map(take_out, state, is_leaf=lambda value: _is_marked(value, _WHOLE)))
    return tree_map(put_in, outline, is_leaf=lambda value: _is_marked(value, _SHAPE))


def _whole(tensor: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    if not hasattr(tensor, "full_tensor"):
        return tensor
    whole: torch.Tensor = tensor.full_tensor()
    return whole.cpu() if ranks.rank == 0 else whole.new_empty(0)


def _is_marked(value: Any, mark: str) -> bool:
    return isinstance(value, Mapping) and mark in value


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _uses(module: nn.Module) -> dict[int, int]:
    """Under how many names a module has each of its parameters."""
    uses: dict[int, int] = {}
    for _, parameter in module.named_parameters(remove_duplicate=False):
        uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    return uses
