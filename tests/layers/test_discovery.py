"""The layers of networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recon_cli.errors import ReconError
from recon_cli.layers.discovery import discover_layers
from recon_cli.layers.names import LayerTable
from recon_cli.zoo import resnet18, small_resnet
from tests import networks


def test_the_papers_resnet18_has_41_shared_layers_and_its_parameters():
    layers = [layer for layer in discover_layers(resnet18()) if not layer.name.startswith("heads.")]
    assert len(layers) == 41
    assert sum(layer.size for layer in layers) == 11_221_540
    assert sum(len(layer.parameters) for layer in layers) == 62
    kinds = [layer.type for layer in layers]
    assert (kinds.count("Conv2d"), kinds.count("BatchNorm2d"), kinds.count("Linear")) == (20, 20, 1)


def test_the_papers_resnet18_computes_logits_for_each_task():
    outputs = resnet18().eval()(torch.zeros(2, 1, 36, 36))
    assert {task: tuple(output.shape) for task, output in outputs.items()} == {"fashion": (2, 10), "mnist": (2, 10)}


def test_the_small_network_is_as_its_docstring_says():
    layers = [layer for layer in discover_layers(small_resnet()) if not layer.name.startswith("heads.")]
    assert len(layers) == 19
    assert sum(layer.size for layer in layers) == 81_520


def test_layers_stand_in_the_order_of_registration():
    names = [layer.name for layer in discover_layers(networks.TwoTasks())]
    assert names == ["conv", "norm", "body.0", "body.2", "heads.left", "heads.right"]


def test_tied_weights_make_one_layer_with_aliases():
    embed, mix, other = discover_layers(networks.Tied())
    assert (embed.name, embed.type, embed.aliases) == ("embed", "Embedding", ("decode",))
    assert list(embed.parameters) == ["embed.weight", "decode.bias"]
    assert embed.size == 25
    assert (mix.name, other.name) == ("mix", "other")


def test_a_module_under_two_names_is_one_layer():
    first = discover_layers(networks.Reused())[0]
    assert (first.name, first.aliases, list(first.parameters)) == (
        "first", ("again",), ["first.weight", "first.bias"],
    )  # fmt: skip


def test_parameters_of_the_root_and_of_modules_with_layers_inside():
    layers = {layer.name: layer for layer in discover_layers(networks.Attention())}
    assert layers["position"].type == "Parameter"
    assert list(layers["block.self_attn"].parameters) == [
        "block.self_attn.in_proj_weight", "block.self_attn.in_proj_bias",
    ]  # fmt: skip
    assert "block.self_attn.out_proj" in layers


def test_a_parametrised_layer_keeps_its_name_and_class():
    layers = {layer.name: layer for layer in discover_layers(networks.Recurrent())}
    assert layers["scale"].type == "Linear"
    assert len(layers["scale"].parameters) == 3


def test_a_lazy_layer_is_refused():
    with pytest.raises(ReconError, match="`0.weight` has no shape yet"):
        discover_layers(nn.Sequential(nn.LazyLinear(3)))


@pytest.mark.parametrize(
    "network",
    [networks.TwoTasks, networks.Tied, networks.Attention, networks.Reused, networks.Recurrent, small_resnet],
)
def test_modules_and_state_dicts_agree_on_the_layers(network):
    model = network()
    by_module = {name for layer in discover_layers(model) for name in (layer.name, *layer.aliases)}
    assert by_module == set(LayerTable.of(key for key, _ in model.named_parameters(remove_duplicate=False)).keys)
    assert by_module <= set(LayerTable.of(model.state_dict()).keys)
