"""Pickles read as inert data, against Python's own writer and against literal bytes."""

from __future__ import annotations

import argparse
import collections
import io
import pickle
import struct
import sys
import tracemalloc
import zipfile

import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import given
from hypothesis import strategies as st

from recon_cli.checkpoints.pickles.nodes import Call, Global, PersistentId, items_of
from recon_cli.checkpoints.pickles.reading import TruncatedPickleError, read_pickle
from recon_cli.errors import ReconError
from tests.checkpoints.pickles.data import made, same, values
from tests.experiment.programs import quietly, script


def read(data: bytes) -> object:
    node, end = read_pickle(data)
    assert end == len(data)
    return node


@pytest.mark.parametrize("protocol", range(6))
@given(value=values)
def test_data_is_read_as_python_wrote_it(value, protocol):
    assert same(made(read(pickle.dumps(value, protocol))), value)


class Point:
    """Objects of each way in which Python makes them."""

    def __init__(self, x):
        self.x = x


class Squares(list):
    pass


class Ratio(tuple):
    """A tuple that Python makes anew by `Ratio.__new__(Ratio, 3, denominator=4)`."""

    __slots__ = ()

    def __new__(cls, numerator, *, denominator):
        return super().__new__(cls, (numerator, denominator))

    def __getnewargs_ex__(self):
        return self[:1], {"denominator": self[1]}


@pytest.mark.parametrize("protocol", range(2, 6))
def test_objects_become_calls(protocol):
    node = read(pickle.dumps(Point(1), protocol))
    assert (node.full_name, node.kind, node.arguments) == (f"{__name__}.Point", "NEWOBJ", ())
    assert node.built and node.state == {"x": 1}
    assert not node.items and not node.elements

    squares = Squares([1, 4])
    squares.of = "integers"
    node = read(pickle.dumps(squares, protocol))
    assert (node.elements, node.state, node.kind) == ([1, 4], {"of": "integers"}, "NEWOBJ")

    counts = collections.defaultdict(list, {"a": [1]})
    node = read(pickle.dumps(counts, protocol))
    assert (node.full_name, node.kind, node.items, node.built) == (
        "collections.defaultdict",
        "REDUCE",
        {"a": [1]},
        False,
    )
    assert node.arguments[0].full_name in ("builtins.list", "__builtin__.list")


@pytest.mark.parametrize("protocol", [4, 5])
def test_keywords_of_a_new_object_are_kept(protocol):
    node = read(pickle.dumps(Ratio(3, denominator=4), protocol))
    assert (node.kind, node.arguments, node.keywords) == ("NEWOBJ_EX", (3,), {"denominator": 4})
    assert not node.built


def test_the_state_none_is_told_apart_from_no_state():
    assert read(b"\x80\x02cm\nC\n)\x81Nb.").built
    assert not read(b"\x80\x02cm\nC\n)\x81.").built


@pytest.mark.parametrize("protocol", range(6))
def test_what_is_shared_stays_shared(protocol):
    shared = [1]
    node = read(pickle.dumps({"a": shared, "b": (shared,)}, protocol))
    assert node["a"] is node["b"][0]
    shared.append(shared)
    node = read(pickle.dumps(shared, protocol))
    assert node[1] is node


def test_several_pickles_follow_each_other():
    data = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"a": 1}))
    magic, end = read_pickle(memoryview(data))
    version, end = read_pickle(data, end)
    info, end = read_pickle(data, end)
    assert (magic, version, info, end) == (0x1950A86A20F9469CFC6C, 1001, {"a": 1}, len(data))


def test_state_dicts_are_calls_with_tensors_as_persistent_ids():
    file = io.BytesIO()
    torch.save(torch.nn.Linear(2, 3).state_dict(), file)
    node = read(zipfile.ZipFile(file).read("archive/data.pkl"))
    assert isinstance(node, Call) and node.full_name == "collections.OrderedDict"
    items = dict(items_of(node))
    assert list(items) == ["weight", "bias"]
    weight = items["weight"]
    assert weight.full_name == "torch._utils._rebuild_tensor_v2"
    storage, offset, shape, strides, requires_grad, hooks = weight.arguments
    assert isinstance(storage, PersistentId)
    kind, number_type, key, device, count = storage.value
    assert (kind, number_type.full_name, key, device, count) == ("storage", "torch.FloatStorage", "0", "cpu", 6)
    assert (offset, shape, strides, requires_grad, items_of(hooks)) == (0, (3, 2), (2, 1), False, [])
    assert list(node.state) == ["_metadata"]


def test_torchscript_programs_are_read(tmp_path):
    script(torch.nn.Linear(2, 3), (torch.zeros(1, 2),), tmp_path / "x.pt")
    archive = zipfile.ZipFile(tmp_path / "x.pt")
    (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
    module = read(archive.read(name))
    # A number stands between module and name if this process compiled the class before.
    assert module.function.module.startswith("__torch__.torch.nn.modules.linear")
    assert (module.function.name, module.kind) == ("Linear", "NEWOBJ")
    assert module.state["weight"].arguments[2] == (3, 2)


def test_legacy_files_are_read():
    file = io.BytesIO()
    content = {"a": torch.ones(2), "n": argparse.Namespace(lr=1)}
    torch.save(content, file, _use_new_zipfile_serialization=False)
    data, end, found = file.getvalue(), 0, []
    for _ in range(5):
        node, end = read_pickle(data, end)
        found.append(node)
    magic, version, system, content, storages = found
    assert (magic, version, system["little_endian"]) == (0x1950A86A20F9469CFC6C, 1001, True)
    assert content["a"].arguments[0].value[2] == storages[0]
    assert content["n"].state == {"lr": 1}
    assert struct.unpack("<q2f", data[end:]) == (2, 1.0, 1.0)


def test_the_metadata_of_distributed_checkpoints_is_read(tmp_path):
    with quietly():
        dcp.save({"model": {"weight": torch.ones(2, 3)}, "step": 7}, checkpoint_id=tmp_path, no_dist=True)
    metadata = read((tmp_path / ".metadata").read_bytes())
    assert metadata.full_name == "torch.distributed.checkpoint.metadata.Metadata"
    tensor = metadata.state["state_dict_metadata"]["model.weight"]
    assert tensor.full_name == "torch.distributed.checkpoint.metadata.TensorStorageMetadata"
    assert tensor.state["size"].arguments == ((2, 3),)
    (place, *_) = metadata.state["storage_data"].values()
    assert place.state["relative_path"] == "__0_0.distcp"


# What Python 2 wrote: pickle.dumps(value, protocol) of its interpreter.
PYTHON_2 = [
    (b"S'weight'\np0\n.", "weight"),
    (b"S'it\\'s \\\\ \\x41\\n\\d'\n.", "it's \\ A\n\\d"),
    (b'S"it\'s"\n.', "it's"),
    (b"S'\\xc3\\xa9'\n.", "é"),
    (b"S'\\xe9'\n.", "é"),
    (b"U\x06weightq\x00.", "weight"),
    (b"U\x01\xe9.", "é"),
    (b"T\x06\x00\x00\x00weight.", "weight"),
    (b"Vw\\u00e9\n.", "wé"),
    (b"(I1\nL2L\nI01\nI00\nF1.5\nNt.", (1, 2, True, False, 1.5, None)),
    (b"(lp0\nI1\naI-2\na.", [1, -2]),
    (b"(dp0\nS'a'\np1\nI1\ns.", {"a": 1}),
    (b"(I1\nI2\nl.", [1, 2]),
    (b"(I1\nI2\nd.", {1: 2}),
    (b"]q\x00(U\x01aU\x01be.", ["a", "b"]),
    (b"I1\n(I2\nI3\n1.", 1),
    (b"I1\n(0.", 1),
    (b"I1\nI2\n0.", 1),
    (b"I1\n2\x86.", (1, 1)),
    (b"I7\np300\n0g300\n.", 7),
]


@pytest.mark.parametrize(("data", "value"), PYTHON_2)
def test_the_instructions_of_old_pickles(data, value):
    assert same(read(data), value)


def test_classes_of_the_old_style_are_calls():
    for data in (b"(I1\nimod\nOld\n.", b"(cmod\nOld\nI1\no."):
        node = read(data)
        assert (node.full_name, node.kind, node.arguments) == ("mod.Old", "OBJ", (1,))


def test_persistent_ids_of_protocol_0_are_text():
    assert read(b"Pstorage 1\n.").value == "storage 1"


def test_half_characters_are_kept_as_python_keeps_them():
    assert read(pickle.dumps("a\udc80", 4)) == "a\udc80"


HARMFUL = [
    b"cposix\nsystem\n(S'touch was_run'\ntR.",
    b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0dtouch was_run\x85R.",
    b"(S'touch was_run'\niposix\nsystem\n.",
    b"(cposix\nsystem\nS'touch was_run'\no.",
    b"c__builtin__\neval\n(S\"open('was_run', 'w')\"\ntR.",
    b"\x80\x02cbuiltins\nopen\nU\x07was_runU\x01w\x86\x81.",
]


@pytest.mark.parametrize("data", HARMFUL)
def test_nothing_that_a_pickle_asks_for_is_run(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    node = read(data)
    assert isinstance(node, Call)
    assert node.full_name in ("posix.system", "__builtin__.eval", "builtins.open")
    assert list(tmp_path.iterdir()) == []


def test_nothing_that_a_pickle_names_is_imported():
    assert "antigravity" not in sys.modules
    node = read(b"cantigravity\nfly\n.")
    assert isinstance(node, Global) and node.full_name == "antigravity.fly"
    assert "antigravity" not in sys.modules


TUPLE_OF_2_TO_THE_60 = b"N" + b"2\x86" * 60

BROKEN = {
    "unknown instruction": [b"\x80\x02\xff.", b"\x00", b"PK\x03\x04" + b"\n" * 9],
    "protocol 6 is newer": [b"\x80\x06N."],
    "more than it has put down": [
        b".x", b"2.", b"\x85.", b"N\x86.", b"NN\x87.", b"R.", b")R.", b"\x81.", b"b.", b"Nb.", b"a.", b"Na.", b"s.",
        b"Q.", b"q\x00.", b"r\x00\x00\x00\x00.", b"p0\n.", b"\x94.", b"\x93.", b"N(\x86.", b"N(b.", b"(u.", b"(e.",
        b"(\x90.",
    ],
    "mark is missing": [
        b"Nt.", b"Nl.", b"Nd.", b"Nu.", b"Ne.", b"N1.", b"0.", b"No.", b"\x91.", b"]\x90.", b"im\nC\n.",
    ],
    "not memoized": [b"h\x00.", b"j\x00\x00\x00\x00.", b"g0\n.", b"Nq\x00h\x01."],
    "not UTF-8": [
        b"X\x01\x00\x00\x00\xff.", b"\x8c\x01\xff.", b"\x8d\x01" + b"\0" * 7 + b"\xff.", b"c\xff\nC\n.", b"P\xff\n.",
    ],
    "is negative": [b"T\xff\xff\xff\xff.", b"\x8b\xff\xff\xff\xff."],
    "is no number": [
        b"I1_0\n.", b"I 1\n.", b"I\n.", b"Ix\n.", b"L1l\n.", b"F1_0\n.", b"Fx\n.", b"F.\n.", b"F1.2.3\n.", b"g\xb2\n.",
        b"I" + b"1" * 5000 + b"\n.", b"L" + b"1" * 5000 + b"L\n.", b"F" + b"1" * 5000 + b"\n.",
    ],
    "lacks its quotes": [b"Sa\n.", b"S\n.", b"S'\n.", b"S'a\"\n."],
    "broken escape": [b"S'\\x4'\n.", b"S'\\'\n.", b"V\\u12\n."],
    "needs what lies outside": [b"\x82\x01.", b"\x83\x01\x00.", b"\x84\x01\x00\x00\x00.", b"\x97.", b"\x98."],
    "a key lacks its value": [b"}(NNNu.", b"(Nd."],
    "a key is no text": [
        b"}]Ns.", b"}}Ns.", b"}\x8fNs.", b"(]Nd.", b"}(]Nu.", b"}]\x85Ns.", b"\x80\x05}\x96" + b"\0" * 8 + b"Ns.",
        b"}" + TUPLE_OF_2_TO_THE_60 + b"Ns.", b"}N" + b"\x85" * 100_000 + b"Ns.", b"}\x8a\x09" + b"\x7f" * 9 + b"Ns.",
        b"ccollections\nOrderedDict\n)R]Ns.",
    ],
    "a member of a set is no text": [b"\x8f(]\x90.", b"(]\x91.", b"(" + TUPLE_OF_2_TO_THE_60 + b"\x91."],
    "something that is no mapping": [b"]NNs.", b"NNNs.", b")(NNu."],
    "something that is no list": [b"}Na.", b"N(Ne."],
    "something that is no set": [b"](N\x90.", b"cm\nC\n)\x81(N\x90."],
    "something that has none": [b"NNb.", b"}}b.", b"cm\nC\n}b."],
    "after it has set its state": [b"cm\nC\n)\x81}bNa.", b"cm\nC\n)\x81}bNNs.", b"cm\nC\n)\x81}b}b."],
    "after it has set its items": [b"cm\nC\n)\x81NNsNa."],
    "are no tuple": [b"cm\nC\n]R.", b"cm\nC\nN\x81.", b"cm\nC\nN}\x92."],
    "something that is no function": [b"N)R.", b"N)\x81.", b"N)}\x92.", b"(NNo.", b"(o."],
    "no dict of names": [b"cm\nC\n)N\x92.", b"cm\nC\n)}(K\x01Nu\x92."],
    "the name of a global is no text": [b"NX\x01\x00\x00\x00a\x93.", b"X\x01\x00\x00\x00aN\x93."],
}  # fmt: skip


@pytest.mark.parametrize(("words", "data"), [(words, data) for words, examples in BROKEN.items() for data in examples])
def test_a_pickle_that_is_broken_in_one_way_is_refused_for_it(words, data):
    with pytest.raises(ReconError, match=r"^`data.pkl` is no valid pickle") as caught:
        read_pickle(data + b"behind", what="`data.pkl`")
    assert words in caught.value.message
    assert not isinstance(caught.value, TruncatedPickleError)


LYING = [
    b"X\xff\xff\xff\xff",
    b"\x8d" + b"\xff" * 8,
    b"C\xff",
    b"B\xff\xff\xff\xff",
    b"\x8e" + b"\xff" * 8,
    b"\x96" + struct.pack("<Q", 2**32),
    b"U\xff",
    b"T\xff\xff\xff\x7f",
    b"\x8a\xff",
    b"\x8b\xff\xff\xff\x7f",
    b"\x95" + b"\xff" * 8,
]


@pytest.mark.parametrize("data", LYING)
def test_a_length_beyond_the_end_allocates_nothing(data):
    tracemalloc.start()
    try:
        with pytest.raises(TruncatedPickleError):
            read_pickle(b"\x80\x05" + data + b"behind.")
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_huge_memo_indices_and_counts_cost_nothing():
    tracemalloc.start()
    try:
        assert read(b"Nr\xff\xff\xff\xffj\xff\xff\xff\xff\x86.") == (None, None)
        assert read(b"Np99999999999999999999\ng99999999999999999999\n\x86.") == (None, None)
        node = read(b"cbuiltins\nbytearray\n\x8a\x08" + struct.pack("<q", 2**40) + b"\x85R.")
        assert node.arguments == (2**40,)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


WHOLE = {
    "a": [1, 2**40, 2**3000, 1.5, "é" * 300, b"\0" * 300],
    (1, 2): {3, 4},
    "o": collections.OrderedDict(x=frozenset([1])),
}


@pytest.mark.parametrize(
    "data", [pickle.dumps(WHOLE, protocol) for protocol in range(6)] + [data for data, _ in PYTHON_2]
)
def test_every_truncation_is_told_as_one(data):
    for end in range(len(data)):
        with pytest.raises(TruncatedPickleError, match="ends before"):
            read_pickle(data[:end])


NESTED = {
    "lists": b"]" * 100_000 + b"a" * 99_999,
    "tuples": b")" + b"\x85" * 100_000,
    "dicts": b"}K\x00" * 99_999 + b"}" + b"s" * 99_999,
    "calls": b")" + b"q\x000cm\nf\nh\x00\x85R" * 100_000,
    "arguments": b"cm\nf\n" * 100_000 + b")R" + b"\x85R" * 99_999,
    "functions": b"cm\nf\n" + b")R" * 100_000,
    "persistent ids": b"N" + b"Q" * 100_000,
    "marks": b"(" * 100_000 + b"t" * 100_000,
}


@pytest.mark.parametrize("data", NESTED.values(), ids=NESTED.keys())
def test_no_depth_is_too_deep(data):
    read(data + b".")


@given(st.data())
def test_bytes_that_were_changed_are_read_or_refused(data):
    valid = data.draw(st.sampled_from([pickle.dumps(WHOLE, protocol) for protocol in range(6)] + HARMFUL))
    changed = bytearray(valid)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(changed) - 1))
        changed[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    try:
        read_pickle(bytes(changed))
    except ReconError as error:
        assert len(error.message) < 500


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data):
    try:
        read_pickle(data)
    except ReconError as error:
        assert error.message
