"""From tensor names to layers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recon_cli.layers.names import LayerTable, is_parameter, layer_of, modules_of
from recon_cli.tasks import branch_ids


@pytest.mark.parametrize(
    ("key", "layer"),
    [
        ("conv1.weight", "conv1"),
        ("layer1.0.bn1.running_mean", "layer1.0.bn1"),
        ("position", "position"),
        ("block.attn.in_proj_weight", "block.attn"),
        ("conv.parametrizations.weight.original0", "conv"),
        ("parametrizations.weight.original0", "weight"),
        ("parametrizations", "parametrizations"),
        ("a.parametrizations", "a"),
    ],
)
def test_a_tensor_belongs_to_the_module_that_owns_it(key, layer):
    assert layer_of(key) == layer


def test_a_layer_is_a_leaf_if_no_other_lies_inside():
    table = LayerTable.of(["position", "attn.in_proj", "attn.out.weight", "attn.out.bias", "attn2.weight"])
    assert {name: table.is_leaf(name) for name in table.keys} == {
        "position": False, "attn": False, "attn.out": True, "attn2": True,
    }  # fmt: skip
    assert table.keys["attn.out"] == ("attn.out.weight", "attn.out.bias")


@pytest.mark.parametrize(
    ("key", "dtype", "expected"),
    [
        ("bn.weight", "F32", True),
        ("bn.running_mean", "F32", False),
        ("bn.num_batches_tracked", "I64", False),
        ("w", "BF16", True),
        ("w", "F8_E4M3", True),
        ("w", "C64", True),
        ("index", "I64", False),
        ("mask", "BOOL", False),
    ],
)
def test_buffers_are_told_by_name_and_type(key, dtype, expected):
    assert is_parameter(key, dtype) is expected


def test_branch_ids_are_identifiers_and_different():
    assert branch_ids(["fashion", "mnist"]) == ("fashion", "mnist")
    assert branch_ids(["a-b", "a b", "a_b", "1st", "-", "größe"]) == (
        "a_b_2", "a_b_3", "a_b", "t1st", "t_", "größe",
    )  # fmt: skip
    assert branch_ids(["class", "training", "_modules", "type"]) == ("tclass", "ttraining", "t_modules", "type")


def test_layers_belong_to_the_module_around_them():
    body = ["body.0.conv", "body.0.down.0", "body.0.bn", "body.1.attn", "body.1.attn.out", "body.1.attn.out.x.y"]
    assert modules_of(["stem", *body]) == {
        "stem": ("stem",),
        "body.0": ("body.0.conv", "body.0.bn"),
        "body.0.down": ("body.0.down.0",),
        "body.1.attn": ("body.1.attn", "body.1.attn.out"),
        "body.1.attn.out.x": ("body.1.attn.out.x.y",),
    }


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(".".join), unique=True))
def test_every_layer_belongs_to_one_module(layers):
    modules = modules_of(layers)
    assert sorted(layer for group in modules.values() for layer in group) == sorted(layers)
    for module, group in modules.items():
        assert all(layer == module or layer.rpartition(".")[0] == module for layer in group)
