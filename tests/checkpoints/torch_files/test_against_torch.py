"""What `torch.save` writes, in both of its forms, is read as `torch.load` reads it, bit for bit."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from recon_cli.checkpoints.opening import open_checkpoint
from recon_cli.checkpoints.state_dict import read_state_dict
from recon_cli.checkpoints.tensors import TORCH_DTYPES
from tests import networks

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf")
FORMS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
DTYPES = [getattr(torch, name) for name in TORCH_DTYPES if hasattr(torch, name)]
# torch can save these in the older form, but not load them again.
UNTYPED = [
    dtype
    for dtype in DTYPES
    if str(dtype).startswith(("torch.uint16", "torch.uint32", "torch.uint64", "torch.float8", "torch.complex32"))
]


def saved(value: object, path: Path, *, zipped: bool = True, protocol: int = 2) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    return path


def bits(tensor: torch.Tensor) -> list[int]:
    plain = torch.empty(tensor.numel(), dtype=tensor.dtype).copy_(tensor.detach().reshape(-1))
    return plain.view(torch.uint8).tolist()


def assert_as_torch_reads(path: Path) -> None:
    """Check a file against `torch.load`."""
    assert_read(path, torch.load(path, weights_only=False))


def assert_read(path: Path, expected: Mapping[str, torch.Tensor], key: str | None = None) -> None:
    """Check a file against the tensors that are in it."""
    found = read_state_dict(path, key)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert found[name].shape == value.shape, name
        assert bits(found[name]) == bits(value), name


def random_tensor(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Any bits of a type; those that no number has, such as a bool of 2, are no bits of it."""
    if dtype == torch.bool:
        return torch.rand(shape) < 0.5
    count = torch.zeros(shape).numel() * dtype.itemsize
    return torch.randint(0, 256, (count,), dtype=torch.uint8).view(dtype).view(shape)


@FORMS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type_in_every_layout(tmp_path, dtype, zipped):
    base = random_tensor(dtype, 4, 6)
    state = {
        "matrix": base.clone(),
        "scalar": random_tensor(dtype),
        "empty": random_tensor(dtype, 0, 3),
        "turned": random_tensor(dtype, 3, 5).T,
        "every second": random_tensor(dtype, 12)[1::2],
        "part": base[1:3],
        "column": base[:, 2],
        "images": random_tensor(dtype, 2, 3, 4, 5).permute(0, 2, 3, 1),
        "diagonal": base.as_strided((3,), (7,)),
    }
    path = saved(state, tmp_path / "x.pt", zipped=zipped)
    assert_read(path, state)
    if zipped or dtype not in UNTYPED:
        assert_as_torch_reads(path)


def test_the_types_are_all_that_torch_can_save_and_load():
    unknown = set()
    for dtype in {value for value in vars(torch).values() if isinstance(value, torch.dtype)}:
        if dtype not in DTYPES:
            unknown.add(str(dtype).removeprefix("torch."))
    # Quantised ones, and some that have no numbers of their own yet: bits of which libraries make some.
    assert all(name.startswith(("q", "bits", "int", "uint", "float4")) for name in unknown), unknown


def layouts() -> dict[str, torch.Tensor]:
    flat = torch.arange(24.0)
    channels_last = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    with_attributes = torch.arange(3.0)
    with_attributes.note = "mine"
    hooked = torch.zeros(2, requires_grad=True)
    return {
        "channels last": channels_last,
        "rows": flat[6:18].view(3, 4),
        "the same rows": flat[6:18].view(3, 4),
        "the whole": flat,
        "windows that overlap": flat.as_strided((4, 4), (2, 1)),
        "size one, odd stride": flat.as_strided((1, 3), (17, 1)),
        "parameter": nn.Parameter(torch.randn(2, 2)),
        "frozen parameter": nn.Parameter(torch.randn(2), requires_grad=False),
        "buffer": nn.Buffer(torch.randn(2)),
        "with attributes": with_attributes,
        "needs a gradient": hooked,
    }


@FORMS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_views_parameters_and_tensors_with_attributes(tmp_path, zipped, protocol):
    assert_as_torch_reads(saved(layouts(), tmp_path / "x.pt", zipped=zipped, protocol=protocol))


@FORMS
def test_a_parameter_with_attributes(tmp_path, zipped):
    weight = nn.Parameter(torch.randn(2, 2))
    weight.tag = {"of": ["mine", 3]}
    assert_as_torch_reads(saved({"w": weight, "b": torch.ones(2)}, tmp_path / "x.pt", zipped=zipped))


@FORMS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_the_state_dict_of_a_module_and_its_ties(tmp_path, zipped, protocol):
    module = nn.Sequential(networks.two_tasks(), nn.Linear(3, 3), nn.BatchNorm1d(3))
    module.register_parameter("tied", module[1].weight)
    path = saved(module.state_dict(), tmp_path / "x.pt", zipped=zipped, protocol=protocol)
    assert_as_torch_reads(path)
    state = read_state_dict(path)
    assert state["tied"] is state["1.weight"]
    with open_checkpoint(path) as source:
        assert set(source.ties.items()) in ({("tied", "1.weight")}, {("1.weight", "tied")})


@FORMS
def test_tensors_in_the_same_place_are_tied_if_they_are_alike(tmp_path, zipped):
    flat = torch.arange(6.0)
    state = {
        "a": flat, "again": flat, "other shape": flat.view(2, 3), "other start": flat[1:],
        "none": flat[:0], "none again": flat[:0],
    }  # fmt: skip
    with open_checkpoint(saved(state, tmp_path / "x.pt", zipped=zipped)) as source:
        assert source.ties == {"again": "a"}


MORE = {"x": torch.ones(1)}
CONTAINERS = {
    "OrderedDict": (collections.OrderedDict, None),
    "defaultdict": (lambda state: collections.defaultdict(list, state), None),
    "beside others": (lambda state: {"epoch": 3, "state_dict": state, "loss": [0.5, None, True, 1j]}, None),
    "a list of them": (lambda state: [state, MORE], "0"),
    "a tuple of them": (lambda state: (MORE, state), "1"),
    "keys with dots": (lambda state: {"a.b": {"c.d": state}, "a": MORE}, "a.b.c.d"),
    "keys that are numbers": (lambda state: {0: MORE, 7: {"ema": state}}, "7.ema"),
    "others within it": (lambda state: {"m": {**state, "more": MORE}, "n": MORE}, "m"),
    "one within another": (lambda state: {"m": {**MORE, "y": state}}, "m.y"),
    "what is not plain beside it": (lambda state: {"model": state, "args": collections.deque([1])}, "model"),
}


@FORMS
@pytest.mark.parametrize("kind", CONTAINERS)
def test_state_dicts_wherever_they_lie(tmp_path, kind, zipped):
    wrap, key = CONTAINERS[kind]
    state = {"layer.weight": torch.randn(3, 2), "layer.bias": torch.randn(3).half()}
    assert_read(saved(wrap(state), tmp_path / "x.pt", zipped=zipped), state, key)


@FORMS
def test_entries_that_are_no_tensors_are_left_out(tmp_path, zipped):
    state = {"w": torch.ones(2), "lr": 0.5, "head._extra_state": {"version": 2}, "b": torch.zeros(2)}
    assert list(read_state_dict(saved(state, tmp_path / "x.pt", zipped=zipped))) == ["w", "b"]


@st.composite
def strided(draw):
    """A view of a part of a storage, of any shape and strides that stay within it."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    strides = [draw(st.integers(0, 9)) for _ in shape]
    offset = draw(st.integers(0, 5))
    reach = 1 + sum(max(size - 1, 0) * stride for size, stride in zip(shape, strides, strict=True))
    elements = offset + reach + draw(st.integers(0, 3))
    return random_tensor(dtype, elements).as_strided(shape, strides, offset)


@settings(max_examples=100)
@given(st.lists(strided(), min_size=1, max_size=4), st.booleans())
def test_any_view_within_its_storage(tmp_path_factory, views, zipped):
    path = tmp_path_factory.mktemp("views") / "x.pt"
    fitting = [view for view in views if view.numel() * view.itemsize <= view.untyped_storage().nbytes()]
    state = {str(number): view for number, view in enumerate(fitting)}
    state["any"] = torch.ones(1)
    assert_read(saved(state, path, zipped=zipped), state)
