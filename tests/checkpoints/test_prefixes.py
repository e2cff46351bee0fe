"""What wrappers put before names, told from the names that a module has by itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from recon_cli.checkpoints.memory_source import TensorSource
from recon_cli.checkpoints.prefixes import Unprefixed, prefix_before, wrapper_prefix


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_the_prefixes_of_real_wrappers_are_known():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    compiled = torch.compile(network)
    assert wrapper_prefix(network.state_dict()) == ""
    assert wrapper_prefix(compiled.state_dict()) == "_orig_mod."
    assert wrapper_prefix(nn.DataParallel(compiled).state_dict()) == "module._orig_mod."
    averaged = {k: v for k, v in AveragedModel(network).state_dict().items() if k != "n_averaged"}
    assert wrapper_prefix(averaged) == "module."


@pytest.mark.parametrize(
    ("keys", "prefix"),
    [
        ([], ""),
        (["module.w", "w"], ""),
        (["module."], ""),
        (["module.w"], "module."),
        (["modules.w"], ""),
    ],
)
def test_a_prefix_is_one_only_if_all_names_have_it_and_more(keys, prefix):
    assert wrapper_prefix(keys) == prefix


@pytest.mark.parametrize(
    ("keys", "layers", "prefix"),
    [
        (["net.model.conv.weight", "net.model.fc.weight"], ["conv", "fc"], "net.model."),
        (["net.conv.weight", "net.fc.weight"], ["net.conv"], ""),
        (["net.conv.weight", "loss.weight"], ["conv"], ""),
        (["net.conv.weight", "net.fc.weight"], ["other"], ""),
        (["scale", "conv.weight"], ["conv"], ""),
        ([], ["conv"], ""),
    ],
)
def test_a_prefix_is_found_by_the_layers_that_are_wanted(keys, layers, prefix):
    assert prefix_before(keys, layers) == prefix


def test_a_checkpoint_without_its_prefix_has_the_names_of_the_module():
    weight = torch.ones(2)
    with TensorSource({"module.a": weight, "module.b": weight}, "it") as source:
        bare = Unprefixed(source, "module.")
        assert [tensor.key for tensor in bare.tensors] == ["a", "b"]
        assert bare.ties == {"b": "a"}
        assert bare.FORMAT == source.FORMAT
