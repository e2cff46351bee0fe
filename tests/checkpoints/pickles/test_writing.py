"""Inert data written as pickles, which Python's own reader and PyTorch's read."""

from __future__ import annotations

import collections
import datetime
import decimal
import io
import os
import pathlib
import pickle
import pickletools
import random
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recon_cli.checkpoints.pickles.nodes import Call, Global, PersistentId
from recon_cli.checkpoints.pickles.reading import read_pickle
from recon_cli.checkpoints.pickles.writing import write_pickle
from recon_cli.errors import ReconError
from tests.checkpoints.pickles.data import same, values
from tests.checkpoints.pickles.test_reading import HARMFUL, NESTED, WHOLE, Point, Ratio, Squares


def rewritten(data: bytes) -> bytes:
    return write_pickle(read_pickle(data)[0])


@pytest.mark.parametrize("protocol", range(6))
@given(value=values)
def test_what_was_read_is_written_so_that_python_reads_the_same(value, protocol):
    assert same(pickle.loads(rewritten(pickle.dumps(value, protocol))), value)


@given(values)
def test_the_pickle_keeps_to_protocol_2_and_is_the_same_each_time(value):
    node, _ = read_pickle(pickle.dumps(value, 5))
    written = write_pickle(node)
    # Checks stack and memo as well.
    pickletools.dis(written, out=io.StringIO())
    assert max(opcode.proto for opcode, _, _ in pickletools.genops(written)) == 2
    assert rewritten(written) == written == write_pickle(node)


OBJECTS = [
    collections.defaultdict(list, a=[1]),
    collections.Counter("abca"),
    collections.deque([1, 2], maxlen=3),
    collections.OrderedDict(b=1, a=2),
    datetime.datetime(2024, 2, 29, tzinfo=datetime.timezone.utc),
    decimal.Decimal("1.50"),
    pathlib.PurePosixPath("a/b"),
    range(3),
    slice(1, 2),
    torch.float16,
    torch.Size([2, 3]),
    torch.device("cpu"),
    ValueError("wrong"),
]


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("value", OBJECTS, ids=repr)
def test_objects_are_written_as_they_were(value, protocol):
    again = pickle.loads(rewritten(pickle.dumps(value, protocol)))
    assert type(again) is type(value)
    assert repr(again) == repr(value)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_states_and_elements_are_written_as_they_were(protocol):
    squares = Squares([1, 4])
    squares.point = Point(3)
    again = pickle.loads(rewritten(pickle.dumps(squares, protocol)))
    assert (type(again), list(again), again.point.x) == (Squares, [1, 4], 3)
    array = np.arange(6).reshape(2, 3)
    assert (pickle.loads(rewritten(pickle.dumps(array, protocol))) == array).all()
    state = random.Random(3).getstate()
    assert pickle.loads(rewritten(pickle.dumps(state, protocol))) == state


def test_keywords_of_a_new_object_are_written():
    again = pickle.loads(rewritten(pickle.dumps(Ratio(3, denominator=4), 4)))
    assert (type(again), tuple(again)) == (Ratio, (3, 4))
    node = Call(Global("fractions", "Fraction"), (3,), "NEWOBJ_EX")
    node.keywords = {"denominator": 4}
    assert str(pickle.loads(write_pickle(node))) == "3/4"


def test_classes_of_the_old_style_are_written():
    assert pickle.loads(write_pickle(Call(Global("decimal", "Decimal"), ("1.5",), "OBJ"))) == decimal.Decimal("1.5")


def test_a_state_of_none_is_written_and_no_state_is_not():
    assert rewritten(b"cm\nC\n)\x81Nb.").endswith(b"Nb.")
    assert not rewritten(b"cm\nC\n)\x81.").endswith(b"b.")


def test_what_is_shared_stays_shared():
    shared = [b"x" * 1000, "text" * 100]
    again = pickle.loads(rewritten(pickle.dumps({"a": shared, "b": (shared, Point(shared))}, 4)))
    assert again["a"] is again["b"][0] is again["b"][1].x
    twice = rewritten(pickle.dumps([shared] * 50, 4))
    assert len(twice) < 3000


def test_equal_text_is_written_once():
    assert write_pickle(["text" * 100, "".join(["text"] * 100)]).count(b"text") == 100


def test_many_memoized_objects():
    lists = [[number] for number in range(70_000)]
    again = pickle.loads(write_pickle([*lists, lists[0], lists[300], lists[69_999]]))
    assert again[:70_000] == lists
    assert all(again[-3:][place] is again[index] for place, index in enumerate([0, 300, 69_999]))


def test_cycles_close_again():
    inner = [1]
    inner.append(inner)
    mapping = {}
    mapping["self"] = mapping
    through_tuple = ([],)
    through_tuple[0].append(through_tuple)
    long_tuple = ([], 1, 2, 3)
    long_tuple[0].append(long_tuple)
    point = Point(None)
    point.x = point
    for protocol in range(2, 6):
        data = pickle.dumps((inner, mapping, through_tuple, long_tuple, point), protocol)
        inner_, mapping_, through_, long_, point_ = pickle.loads(rewritten(data))
        assert inner_[1] is inner_
        assert mapping_["self"] is mapping_
        assert through_[0][0] is through_
        assert long_[0][0] is long_
        assert point_.x is point_


def test_objects_among_their_own_arguments_are_refused():
    member = Point(None)
    member.x = {member}
    for protocol in (2, 3):
        with pytest.raises(ReconError, match="what `(__builtin__|builtins).set` makes is among the arguments"):
            rewritten(pickle.dumps(member.x, protocol))
    name = []
    name.append(PersistentId(name))
    with pytest.raises(ReconError, match="a part of its own name"):
        write_pickle(name[0])


def test_tuples_that_contain_themselves_do_not_multiply_without_end():
    lists = tuple([] for _ in range(2000))
    for inner in lists:
        inner.append(lists)
    with pytest.raises(ReconError, match="too many tuples"):
        write_pickle(lists)


@pytest.mark.parametrize("data", NESTED.values(), ids=NESTED.keys())
def test_no_depth_is_too_deep(data):
    written = rewritten(data + b".")
    assert rewritten(written) == written


@pytest.mark.parametrize("data", HARMFUL)
def test_calls_are_written_and_not_made(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    node, _ = read_pickle(data)
    again, _ = read_pickle(write_pickle(node))
    assert (again.full_name, again.kind, again.arguments) == (node.full_name, node.kind, node.arguments)
    assert list(tmp_path.iterdir()) == []


def test_what_protocol_2_cannot_say_is_refused():
    refused = {
        "half of a surrogate pair": "a\ud800",
        "cannot name `m.Outer.Inner`": Global("m", "Outer.Inner"),
        "cannot name": Global("m\nx", "f"),
        "a set of other things": {PersistentId(1)},
        "a set of other": frozenset([(Call(Global("m", "f")),)]),
    }
    for words, node in refused.items():
        with pytest.raises(ReconError) as caught:
            write_pickle([node])
        assert words in caught.value.message
    with pytest.raises(TypeError, match="Point"):
        write_pickle([Point(1)])


def test_sets_are_written_the_same_by_every_process():
    program = (
        "import sys; from recon_cli.checkpoints.pickles.writing import write_pickle; assert 'torch' not in sys.modules;"
        "sys.stdout.write(write_pickle({'a', 'b', 'c', ('d', frozenset('efg')), 1, None}).hex())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in "123"
    }
    assert len(outputs) == 1 and outputs != {b""}


def rewritten_file(content: object, **options: object) -> io.BytesIO:
    """A file of `torch.save` with its pickle replaced by the rewritten one."""
    before, after = io.BytesIO(), io.BytesIO()
    torch.save(content, before, **options)
    with zipfile.ZipFile(before) as source, zipfile.ZipFile(after, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, rewritten(data) if name.endswith("/data.pkl") else data)
    after.seek(0)
    return after


def assert_alike(one, other):
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and one.requires_grad == other.requires_grad
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_alike(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_alike(left, right)
    else:
        assert one == other


def training_checkpoint() -> dict[str, object]:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Flatten(), torch.nn.Linear(8, 2)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])
    model(torch.ones(1, 1, 4, 4)).sum().backward()
    optimizer.step()
    schedule.step()
    shared = torch.arange(6.0)
    return {
        "epoch": 3,
        "state_dict": model.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [schedule.state_dict()],
        "tied": [shared, shared, shared[2:].view(2, 2).t()],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "size": torch.Size([1, 2]),
        "rng": torch.get_rng_state(),
        "python": [b"bytes \xff", bytearray(b"more"), {1, 2, 3}, 2**100, -1, 1.5, None, True, "é\n", complex(1, 2)],
    }


def test_training_checkpoints_are_loaded_by_torch_with_weights_only():
    content = training_checkpoint()
    loaded = torch.load(rewritten_file(content), weights_only=True)
    assert_alike(loaded, content)
    assert loaded["state_dict"]._metadata == content["state_dict"]._metadata
    assert loaded["tied"][0].untyped_storage().data_ptr() == loaded["tied"][2].untyped_storage().data_ptr()


def test_training_checkpoints_of_a_later_protocol_become_ones_of_protocol_2():
    content = training_checkpoint()
    with warnings.catch_warnings():
        # Even the protocol of the file has to be that which PyTorch expects.
        warnings.simplefilter("error")
        assert_alike(torch.load(rewritten_file(content, pickle_protocol=4), weights_only=True), content)


@given(st.data())
def test_changed_bytes_that_are_read_are_written_or_refused(data):
    valid = data.draw(st.sampled_from([pickle.dumps(WHOLE, protocol) for protocol in range(6)] + HARMFUL))
    changed = bytearray(valid)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(changed) - 1))
        changed[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    try:
        written = rewritten(bytes(changed))
    except ReconError:
        return
    # Names are told apart by identity until they are written, so equal keys may become one then.
    again = rewritten(written)
    assert rewritten(again) == again
