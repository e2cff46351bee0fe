"""The plan of a split: names in, names out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recon_cli.artifacts.manifest import Branch, SplitLayer
from recon_cli.branching.plan import check_ties, plan_branching, split_per_task
from recon_cli.errors import ReconError
from recon_cli.layers.names import LayerTable

KEYS = ["position", "conv.weight", "conv.bias", "attn.in_proj", "attn.out.weight", "attn.out.bias", "head.weight"]


def places(*layers: str, tasks: tuple[str, ...] = ("one", "two"), keys: list[str] = KEYS):
    return plan_branching(keys, [split_per_task(name, (), tasks) for name in layers], tasks).places


def test_a_layer_becomes_a_dictionary_of_modules():
    assert places("conv") == {
        **{key: (key,) for key in KEYS},
        "conv.weight": ("conv.tasks.one.weight", "conv.tasks.two.weight"),
        "conv.bias": ("conv.tasks.one.bias", "conv.tasks.two.bias"),
    }


def test_a_layer_with_layers_inside_becomes_dictionaries_of_tensors():
    found = places("attn", "position")
    assert found["attn.in_proj"] == ("attn.in_proj.tasks.one", "attn.in_proj.tasks.two")
    assert found["position"] == ("position.tasks.one", "position.tasks.two")
    assert found["attn.out.weight"] == ("attn.out.weight",)


def test_tasks_that_are_no_identifiers_get_ids():
    found = places("conv", tasks=("1st", "a-b"))
    assert found["conv.bias"] == ("conv.tasks.t1st.bias", "conv.tasks.a_b.bias")


def test_tasks_may_share_a_branch():
    layer = SplitLayer(name="conv", branches=(Branch(id="x", tasks=("a", "c")), Branch(id="b", tasks=("b",))))
    assert plan_branching(KEYS, [layer], "abc").places["conv.bias"] == ("conv.tasks.x.bias", "conv.tasks.b.bias")
    assert layer.branch_of("c") == "x"


def test_aliases_are_split_with_their_layer():
    layer = split_per_task("conv", ("head", "not.there"), ("one", "two"))
    assert plan_branching(KEYS, [layer], ("one", "two")).places["head.weight"] == (
        "head.tasks.one.weight", "head.tasks.two.weight",
    )  # fmt: skip


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(ReconError, match="no layer `cnov`") as caught:
        places("cnov")
    assert caught.value.hint == "did you mean `conv`?"


def test_a_layer_cannot_be_split_twice():
    with pytest.raises(ReconError, match="`conv` is to be split twice"):
        places("conv", "conv")


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(ReconError, match="has a tensor `position.tasks.one` already"):
        places("position", keys=["position", "position.tasks.one"])


def test_a_tie_across_the_border_of_a_split_is_refused():
    plan = plan_branching(KEYS, [split_per_task("conv", (), ("one", "two"))], ("one", "two"))
    check_ties(plan, {"attn.out.weight": "head.weight", "conv.bias": "conv.weight"})
    with pytest.raises(ReconError, match="`conv.weight`, `head.weight` are tied"):
        check_ties(plan, {"head.weight": "conv.weight"})


names = st.lists(
    st.lists(st.sampled_from(["a", "b", "conv", "tasks", "0", "weight"]), min_size=1, max_size=4).map(".".join),
    min_size=1, max_size=8, unique=True,
)  # fmt: skip


@given(names, st.data())
def test_a_plan_loses_nothing_and_names_everything_once(keys, data):
    layers = list(LayerTable.of(keys).keys)
    chosen = data.draw(st.lists(st.sampled_from(layers), unique=True))
    try:
        found = places(*chosen, keys=keys)
    except ReconError as error:
        assert "already" in error.message
        return
    assert list(found) == keys
    everything = [name for names in found.values() for name in names]
    assert len(set(everything)) == len(everything)
    for key in keys:
        own = next(layer for layer, group in LayerTable.of(keys).keys.items() if key in group)
        assert len(found[key]) == (2 if own in chosen else 1)
        # The source's name comes back when the branch's part is taken out.
        assert {name.replace(".tasks.one", "", 1).replace(".tasks.two", "", 1) for name in found[key]} == (
            {key} if own in chosen else {key.replace(".tasks.one", "", 1).replace(".tasks.two", "", 1)}
        )
