"""Inert data walked and looked into."""

from __future__ import annotations

import collections
import pickle

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from recon_cli.checkpoints.pickles.nodes import Call, Global, Part, PersistentId, is_key, items_of, path_text, walk
from recon_cli.checkpoints.pickles.reading import read_pickle
from recon_cli.errors import ReconError
from tests.checkpoints.pickles.data import texts, values

ORDERED = Global("collections", "OrderedDict")


def plain_walk(node, path=()):
    """What `walk` is to give for plain containers, in the obvious way."""
    yield path, node
    parts = ()
    if isinstance(node, dict):
        parts = node.items()
    elif isinstance(node, (list, tuple)):
        parts = enumerate(node)
    elif isinstance(node, (set, frozenset)):
        parts = ((Part("member"), member) for member in node)
    for step, part in parts:
        yield from plain_walk(part, (*path, step))


@given(values)
def test_every_node_is_met_with_its_path(value):
    node, _ = read_pickle(pickle.dumps(value, 5))
    assume(not any(isinstance(part, Call) for _, part in plain_walk(node)))
    assert [(path, id(part)) for path, part in walk(node, "it")] == [
        (path, id(part)) for path, part in plain_walk(node)
    ]


def test_a_call_is_walked_in_the_order_of_its_pickle():
    function, storage = Global("m", "f"), PersistentId("here")
    call = Call(function, (storage,), "NEWOBJ_EX")
    call.keywords = {"k": 1}
    call.extend([2])
    call.update([("a", 3)])
    call.state, call.built = {"s": 4}, True
    assert list(walk({"x": call}, "it")) == [
        ((), {"x": call}),
        (("x",), call),
        (("x", Part("function")), function),
        (("x", Part("argument", 0)), storage),
        (("x", Part("argument", 0), Part("id")), "here"),
        (("x", Part("keyword", "k")), 1),
        (("x", 0), 2),
        (("x", "a"), 3),
        (("x", Part("state")), {"s": 4}),
        (("x", Part("state"), "s"), 4),
    ]


def test_a_node_that_is_not_entered_keeps_its_parts_to_itself():
    tree = {"a": [1, 2], "b": {"c": 3}}
    paths = [path for path, _ in walk(tree, "it", enter=lambda node: not isinstance(node, list))]
    assert paths == [(), ("a",), ("b",), ("b", "c")]


def test_paths_are_told_in_words():
    path = ("optimizer", "state", 0, Part("state"), Part("argument", 1), "x" * 1000)
    assert path_text(path) == "optimizer.state.0.<state>.<argument 1>." + "x" * 100


def test_what_occurs_twice_is_met_at_both_places():
    shared = ["x"]
    assert [path for path, node in walk([shared, (shared,)], "it") if node == "x"] == [(0, 0), (1, 0, 0)]


def test_a_few_bytes_do_not_unfold_to_millions_of_nodes():
    node = ["leaf"]
    for _ in range(28):
        node = [node, node]
    with pytest.raises(ReconError, match=r"^`x.pt` repeats the same parts too often"):
        for _ in walk(node, "`x.pt`", repeats=1000):
            pass


def test_a_long_list_is_no_repetition():
    assert sum(1 for _ in walk([[number] for number in range(2000)], "it", repeats=0)) == 4001


def cycles():
    inner = []
    inner.append(inner)
    yield inner
    mapping = {}
    mapping["self"] = (mapping,)
    yield mapping
    call = Call(ORDERED)
    call.update([("self", call)])
    yield call
    holder = Call(Global("m", "C"), (), "NEWOBJ")
    holder.state, holder.built = {"me": holder}, True
    yield holder
    among_its_arguments = []
    among_its_arguments.append(Call(Global("m", "f"), (among_its_arguments,)))
    yield among_its_arguments


@pytest.mark.parametrize("node", list(cycles()))
def test_what_contains_itself_is_refused(node):
    with pytest.raises(ReconError, match=r"^`x.pt` holds an object that contains itself, at `a\b"):
        for _ in walk({"a": node}, "`x.pt`"):
            pass


def test_what_is_nested_too_deeply_is_refused():
    node, _ = read_pickle(b"]" * 100_000 + b"a" * 99_999 + b".")
    with pytest.raises(ReconError, match=r"^`x.pt` is nested too deeply"):
        for _ in walk(node, "`x.pt`"):
            pass


mappings = st.dictionaries(texts, st.integers())


@pytest.mark.parametrize("protocol", range(6))
@given(mapping=mappings, kind=st.sampled_from([dict, collections.OrderedDict, collections.Counter]))
def test_the_items_of_mappings(mapping, kind, protocol):
    node, _ = read_pickle(pickle.dumps(kind(mapping), protocol))
    assert items_of(node) == list(mapping.items())


@given(mapping=mappings)
def test_the_items_of_a_defaultdict(mapping):
    node, _ = read_pickle(pickle.dumps(collections.defaultdict(list, mapping), 2))
    assert items_of(node) == list(mapping.items())


def test_the_items_of_an_ordered_dict_of_python_2():
    node, _ = read_pickle(b"ccollections\nOrderedDict\n(](](U\x01bK\x01e](U\x01aK\x02eetR.")
    assert items_of(node) == [("b", 1), ("a", 2)]


def test_a_later_item_replaces_an_earlier_one_of_its_key():
    node, _ = read_pickle(b"ccollections\nOrderedDict\n)R(U\x01aK\x01U\x01bK\x02U\x01aK\x03u.")
    assert items_of(node) == [("a", 3), ("b", 2)]


def test_other_nodes_have_no_items():
    odd = [[], (), None, "text", ORDERED, Call(Global("m", "Dict")), Call(ORDERED, (1,)), Call(ORDERED, ([[1]],))]
    odd += [Call(ORDERED, ([([], 1)],)), Call(ORDERED, ({}, {})), Call(Global("collections", "defaultdict"), (1, 2))]
    assert [items_of(node) for node in odd] == [None] * len(odd)


def test_keys_are_small_and_cannot_change():
    good = [
        None,
        True,
        2**63,
        -(2**64) + 1,
        1.5,
        "a",
        b"a",
        ORDERED,
        Call(ORDERED),
        PersistentId("a"),
        ((1, 2), frozenset("ab")),
    ]
    assert all(map(is_key, good))
    assert dict.fromkeys(good)
    nested: object = ()
    for _ in range(101):
        nested = (nested,)
    assert not any(map(is_key, [[], {}, set(), bytearray(), ([],), frozenset(range(101)), 2**64, nested]))
