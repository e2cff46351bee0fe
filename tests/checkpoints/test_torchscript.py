"""The weights of TorchScript archives: the names and tensors that `torch.jit.load(...).state_dict()` has."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from recon_cli.checkpoints.opening import open_checkpoint
from recon_cli.checkpoints.sniffing import sniff_format
from recon_cli.checkpoints.state_dict import read_state_dict
from recon_cli.errors import ReconError
from tests import networks
from tests.checkpoints.as_process import check_split, check_without_torch

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore:torch.quantize_per_tensor"
)


class Odd(nn.Module):
    """Attributes of every kind."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size))
        self.register_buffer("nothing", None)
        self.register_buffer("passing", torch.ones(2), persistent=False)
        self.register_buffer("kept", torch.arange(3))
        self.plain = torch.ones(2)
        self.several = [torch.ones(1), torch.ones(2)]
        self.named = {"x": torch.zeros(2)}
        self.number = 3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tensors = self.passing.sum() + self.plain.sum() + self.several[0].sum() + self.named["x"].sum()
        return x + self.weight.sum() + self.kept.sum() + tensors + self.number


class Many(nn.Module):
    """Shared modules, tied weights, lists, and types other than float32."""

    def __init__(self) -> None:
        super().__init__()
        self.odd = Odd(3)
        self.body = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        self.again = self.odd
        self.tied = nn.Linear(3, 3)
        self.tied.weight = self.body[0].weight
        self.low = nn.Linear(3, 3, bias=False).bfloat16()
        self.turned = nn.Parameter(torch.randn(3, 2).t())
        self.scalar = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
        self.empty = nn.Parameter(torch.empty(0, 3))
        self.list = nn.ParameterList([nn.Parameter(torch.ones(2)) for _ in range(2)])
        self.modules_ = nn.ModuleList([nn.Linear(3, 3), Odd(4)])
        self.named = nn.ModuleDict({"q": nn.Linear(3, 3)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = (
            self.odd(x)
            + self.body(x)
            + self.tied(x)
            + self.again(x)
            + self.low(x.to(torch.bfloat16))
            + self.scalar.to(x.dtype)
        )
        for parameter in self.list:
            y = y + parameter.sum()
        for module in self.modules_:
            y = y + module(x)
        for module in self.named.values():
            y = y + module(x)
        return y + self.turned.sum() + self.empty.sum()


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, 2)
        self.attention = nn.MultiheadAttention(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, _ = self.lstm(x)
        return self.attention(y, y, y)[0]


def scripted(module: nn.Module) -> torch.jit.ScriptModule:
    return torch.jit.script(module)


def traced(module: nn.Module, *shape: int) -> torch.jit.ScriptModule:
    return torch.jit.trace(module.eval(), torch.randn(*shape), strict=False)


ARCHIVES = {
    "scripted": lambda: scripted(Many()),
    "traced": lambda: traced(Many(), 2, 3),
    "recurrent": lambda: scripted(Recurrent()),
    "two tasks": lambda: traced(networks.two_tasks(), 2, 1, 5, 5),
    "alone": lambda: scripted(nn.Linear(2, 2)),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_names_and_tensors_are_those_of_the_loaded_module(tmp_path, kind):
    path = tmp_path / "x.bin"
    ARCHIVES[kind]().save(str(path))
    wanted = torch.jit.load(path).state_dict(keep_vars=True)
    found = read_state_dict(path)
    assert sniff_format(path) == "torchscript"
    assert list(found) == list(wanted)
    for key, value in wanted.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value), key
    with open_checkpoint(path) as source:
        for key, first in source.ties.items():
            assert wanted[key].data_ptr() == wanted[first].data_ptr()
        pointers = [value.data_ptr() for value in wanted.values() if value.numel()]
        assert len(source.ties) == len(pointers) - len(set(pointers))


def test_tensors_that_are_no_parameters_or_buffers_are_named_and_left_out(tmp_path):
    scripted(Odd(2)).save(str(tmp_path / "x.pt"))
    with open_checkpoint(tmp_path / "x.pt") as source:
        assert source.FORMAT == "torchscript"
        assert source.others == ("plain",)
        assert [tensor.key for tensor in source.tensors] == ["weight", "passing", "kept"]
    check_without_torch(tmp_path / "x.pt")


def rewrite(path: Path, change) -> None:
    """Write an archive anew with other members; torch's own layout is not needed to read it."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            changed = change(name, content)
            if changed is not None:
                archive.writestr(name, changed)


def test_an_archive_that_does_not_tell_buffers_gives_all_tensors(tmp_path):
    scripted(nn.BatchNorm1d(3)).save(str(tmp_path / "x.pt"))
    rewrite(tmp_path / "x.pt", lambda _, content: re.sub(rb"  __buffers__ = .*\n", b"", content))
    assert list(read_state_dict(tmp_path / "x.pt")) == list(nn.BatchNorm1d(3).state_dict())


def test_a_split_archive_is_what_torch_says(tmp_path):
    traced(networks.two_tasks(), 2, 1, 5, 5).save(str(tmp_path / "x.pt"))
    check_split(tmp_path / "x.pt", torch.jit.load(tmp_path / "x.pt").state_dict(), "body.0", tmp_path / "o.safetensors")


class Quantised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("small", torch.quantize_per_tensor(torch.randn(3, 3), 0.1, 0, torch.qint8))
        self.linear = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + self.small.dequantize().sum()


def dynamically_quantised() -> torch.jit.ScriptModule:
    module = nn.Sequential(nn.Linear(3, 3))
    return scripted(torch.ao.quantization.quantize_dynamic(module, {nn.Linear}, dtype=torch.qint8))


def plain(path: Path, change=None) -> None:
    scripted(nn.Sequential(nn.Linear(3, 3))).save(str(path))
    if change:
        rewrite(path, change)


def without(member: str):
    return lambda name, content: None if member in name else content


def with_pickle(make):
    """Change what the archive holds, not its code."""
    return lambda name, content: make(content) if name.endswith("data.pkl") else content


def with_code(make):
    """Change the code of linear layers, wherever it is; a class that was compiled before has another place."""
    return lambda name, content: make(content) if "modules/linear" in name else content


def in_itself(content: bytes) -> bytes:
    """An object of the same class as the root, which is its own attribute `a`."""
    root = re.search(rb"c__torch__\S+\n\w+\n", content)
    assert root is not None
    return b"\x80\x02" + root[0] + b")\x81q\0}X\1\0\0\0ah\0sb."


REFUSED = {
    "frozen": (
        lambda path: torch.jit.freeze(scripted(nn.Linear(2, 2).eval())).save(str(path)),
        "has no parameters and buffers: a frozen archive",
    ),
    "quantised layers": (
        lambda path: dynamically_quantised().save(str(path)),
        "is a `__torch__.torch.classes.quantized.LinearPackedParamsBase`",
    ),
    "a quantised buffer": (
        lambda path: scripted(Quantised()).save(str(path)),
        "the tensor `small` of `x.pt` is quantised",
    ),
    "no code": (
        lambda path: plain(path, without("modules/linear")),
        "has no class `__torch__.torch.nn.modules.linear.",
    ),
    "no tensor": (lambda path: plain(path, without("data/1")), "has no member `data/1`"),
    "a foreign global": (
        lambda path: plain(
            path, with_pickle(lambda content: content.replace(b"torch._utils\n_rebuild_tensor_v2", b"os\nsystem"))
        ),
        "is a `os.system`",
    ),
    "code in no encoding": (lambda path: plain(path, with_code(lambda _: b"\xff")), "is not UTF-8 text"),
    "code without classes": (lambda path: plain(path, with_code(lambda _: b"x = 1")), "has no class"),
    "a parameter that is not there": (
        lambda path: plain(path, with_code(lambda content: content.replace(b'"bias", ]', b'"bias", "more", ]'))),
        "its module `0` lacks `more`",
    ),
    "a state of its own": (
        lambda path: plain(path, with_pickle(lambda _: b"\x80\x02c__torch__\nX\n)\x81K\x01b.")),
        "which saves its state in a way of its own",
    ),
    "no module": (
        lambda path: plain(path, with_pickle(lambda _: b"\x80\x02K\x01.")),
        "is no TorchScript archive of a module",
    ),
    "a module in itself": (lambda path: plain(path, with_pickle(in_itself)), "contains itself"),
    "a key": (plain, "leave --key out"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_taken_out_is_refused_by_name(recon, kind):
    make, words = REFUSED[kind]
    make(Path("x.pt"))
    with pytest.raises(ReconError) as caught:
        open_checkpoint(Path("x.pt"), key="model" if kind == "a key" else None)
    assert words in f"{caught.value.message} ({caught.value.hint})"
    if kind != "a key":
        recon("split", "x.pt", "--layers", "0", "--tasks", "a,b", "-o", "b.safetensors").refuses(words)
        assert sorted(Path().iterdir()) == [Path("x.pt")]
