"""Folders of `torch.distributed.checkpoint`: the tensors that its own reader gives, and refusals where they lie."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint import metadata as described
from torch.distributed.checkpoint.filesystem import _StorageInfo

from recon_cli.checkpoints.opening import open_checkpoint
from recon_cli.checkpoints.state_dict import read_state_dict
from recon_cli.errors import ReconError
from tests import networks
from tests.checkpoints.as_process import check_split, check_without_torch
from tests.ranks import run_on_ranks

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torch.distributed", "ignore::FutureWarning")

STATE = {
    "a.weight": torch.randn(6, 4),
    "a.turned": torch.randn(4, 3).t(),
    "b.half": torch.randn(5, 2).to(torch.bfloat16),
    "b.empty": torch.zeros(0, 3),
    "b.count": torch.tensor(7),
    "b.eight": torch.randn(4).to(torch.float8_e4m3fn),
    "b.wide": torch.randn(2, 2, dtype=torch.complex128),
    "b.part": torch.arange(100)[20:40],
}


def save(state: object, folder: Path) -> Path:
    dcp.save(state, checkpoint_id=folder, no_dist=True)
    return folder


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors by their flat names, as torch reads them."""
    entries = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    state = {
        key: torch.empty(entry.size, dtype=entry.properties.dtype)
        for key, entry in entries.items()
        if isinstance(entry, described.TensorStorageMetadata)
    }
    dcp.load(state, checkpoint_id=folder, no_dist=True)
    return state


def check(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(wanted)
    for key, value in wanted.items():
        assert (found[key].dtype, found[key].shape) == (value.dtype, value.shape)
        assert torch.equal(found[key], value), key


def test_a_flat_state_dict_is_read(tmp_path):
    folder = save(STATE, tmp_path / "c")
    found = read_state_dict(folder)
    check(found, STATE)
    check(found, loaded(folder))
    check_without_torch(folder)
    with open_checkpoint(folder) as source:
        assert source.FORMAT == "distributed"
        assert source.others == ()
        assert source.ties == {}


def training(model: nn.Module) -> dict[str, Any]:
    """A training checkpoint after one step."""
    optimizer = torch.optim.Adam(model.parameters())
    sum(output.sum() for output in model(torch.randn(4, 1, 5, 5)).values()).backward()
    optimizer.step()
    average = {key: value.clone() for key, value in model.state_dict().items()}
    return {"model": model.state_dict(), "ema": average, "optimizer": optimizer.state_dict(), "step": 3}


def test_the_weights_are_found_in_a_training_checkpoint_and_the_rest_is_named(tmp_path):
    model = networks.two_tasks()
    folder = save(training(model), tmp_path / "c")
    check(read_state_dict(folder), model.state_dict())
    check(read_state_dict(folder, "ema"), model.state_dict())
    with open_checkpoint(folder) as source:
        assert {"step", "ema.conv.weight", "optimizer.param_groups.0.lr", "optimizer.state.0.exp_avg"} <= {
            *source.others
        }
        assert len(source.others) + len(source.tensors) == len(
            dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
        )
    with pytest.raises(ReconError, match="has nothing under `weights`"):
        open_checkpoint(folder, "weights")


def test_state_dicts_of_no_usual_name_have_to_be_chosen_among(tmp_path):
    folder = save({"first": {"w": torch.ones(2)}, "second": {"w": torch.zeros(2)}}, tmp_path / "c")
    with pytest.raises(ReconError, match="holds several state dicts: `first`, `second`"):
        open_checkpoint(folder)
    assert read_state_dict(folder, "second")["w"].tolist() == [0, 0]


def test_what_is_not_among_the_weights_is_not_opened(tmp_path):
    folder = save({"model": {"w": torch.ones(2)}, "other": {"w": torch.zeros(2)}}, tmp_path / "c")
    change_item(folder, "other.w", relative_path="missing.distcp")
    assert read_state_dict(folder)["w"].tolist() == [1, 1]


def test_a_split_folder_is_what_torch_says(tmp_path):
    model = networks.two_tasks()
    folder = save(training(model), tmp_path / "c")
    check_split(folder, model.state_dict(), "body.0", tmp_path / "o.safetensors")
    manifest = json.loads((tmp_path / "o.manifest.json").read_text())
    assert (manifest["source"]["format"], manifest["source"]["key"]) == ("distributed", "model")
    assert {"path": "optimizer.param_groups.0.lr", "treatment": "left out", "reason": None} in manifest["entries"]
    check_split(folder, model.state_dict(), "body.0", tmp_path / "ema.safetensors", "--key", "ema")


WHOLE = {
    "rows": torch.arange(35.0).view(7, 5),
    "one": torch.arange(5.0).view(1, 5),
    "columns": torch.arange(24, dtype=torch.int32).view(4, 6),
    "cube": torch.randn(4, 6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64),
    "scalar": torch.tensor(2.5),
    "same": torch.arange(3),
}


def save_sharded(rank: int, size: int, folder: str) -> None:
    """Tensors cut along one and two dimensions, and a training checkpoint of FSDP."""
    from torch.distributed.checkpoint.state_dict import get_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    line, grid = init_device_mesh("cpu", (size,)), init_device_mesh("cpu", (2, size // 2))
    placed = {
        "rows": (line, [Shard(0)]),
        "one": (line, [Shard(0)]),
        "columns": (line, [Shard(1)]),
        "cube": (grid, [Shard(0), Shard(1)]),
        "scalar": (line, [Replicate()]),
    }
    state = {key: distribute_tensor(WHOLE[key], mesh, places) for key, (mesh, places) in placed.items()}
    dcp.save({**state, "same": WHOLE["same"]}, checkpoint_id=f"{folder}/tensors")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    fully_shard(model, mesh=line)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    weights, moments = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optim": moments}, checkpoint_id=f"{folder}/training")


def test_what_several_ranks_saved_is_put_together(tmp_path):
    run_on_ranks(save_sharded, 4, tmp_path)
    check(read_state_dict(tmp_path / "tensors"), WHOLE)
    check(read_state_dict(tmp_path / "tensors"), loaded(tmp_path / "tensors"))
    assert len(list((tmp_path / "tensors").glob("*.distcp"))) == 4
    wanted = {key.removeprefix("model."): value for key, value in loaded(tmp_path / "training").items()}
    found = read_state_dict(tmp_path / "training")
    check(found, {key: wanted[key] for key in ("0.weight", "0.bias", "1.weight", "1.bias")})
    check_split(tmp_path / "training", found, "1", tmp_path / "one.safetensors")


# Lies


class Metadata:
    """The metadata of a folder, to be changed and written again."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / ".metadata"
        self.content = pickle.loads(self.path.read_bytes())

    def write(self) -> None:
        self.path.write_bytes(pickle.dumps(self.content))

    def index(self, key: str) -> described.MetadataIndex:
        return next(index for index in self.content.storage_data if index.fqn == key)


def change_item(folder: Path, key: str, **fields: object) -> None:
    meta = Metadata(folder)
    for name, value in fields.items():
        setattr(meta.content.storage_data[meta.index(key)], name, value)
    meta.write()


def item(**fields: object) -> Callable[[Path], None]:
    return lambda folder: change_item(folder, "a.weight", **fields)


def chunks(*boxes: tuple[tuple[int, ...], tuple[int, ...]]) -> Callable[[Path], None]:
    """Say that a tensor lies in other chunks, each of them really there."""

    def change(folder: Path) -> None:
        meta = Metadata(folder)
        meta.content.storage_data.pop(meta.index("a.weight"))
        meta.content.state_dict_metadata["a.weight"].chunks = [
            described.ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)) for offsets, sizes in boxes
        ]
        file = folder / "more.distcp"
        data = b""
        for offsets, sizes in boxes:
            buffer = io.BytesIO()
            torch.save(torch.ones(sizes), buffer)
            index = described.MetadataIndex("a.weight", offsets)
            meta.content.storage_data[index] = _StorageInfo("more.distcp", len(data), len(buffer.getvalue()))
            data += buffer.getvalue()
        file.write_bytes(data)
        meta.write()

    return change


def entry(change: Callable[[Any], object]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        meta = Metadata(folder)
        change(meta.content)
        meta.write()

    return changed


def payload(value: object) -> Callable[[Path], None]:
    """Put something else where a tensor lies."""

    def change(folder: Path) -> None:
        buffer = io.BytesIO()
        torch.save(value, buffer)
        (folder / "more.distcp").write_bytes(buffer.getvalue())
        change_item(folder, "a.weight", relative_path="more.distcp", offset=0, length=len(buffer.getvalue()))

    return change


def out_by_a_link(folder: Path) -> None:
    (file,) = folder.glob("*.distcp")
    outside = folder.resolve().parent / "outside"
    file.rename(outside)
    file.symlink_to(outside)


def out_by_a_linked_folder(folder: Path) -> None:
    elsewhere = folder.resolve().parent / "elsewhere"
    elsewhere.mkdir()
    (file,) = folder.glob("*.distcp")
    file.rename(elsewhere / "x.distcp")
    (folder / "sub").symlink_to(elsewhere)
    meta = Metadata(folder)
    for info in meta.content.storage_data.values():
        info.relative_path = "sub/x.distcp"
    meta.write()


def same_bytes(folder: Path) -> None:
    meta = Metadata(folder)
    other = meta.content.storage_data[meta.index("a.weight")]
    change_item(folder, "b.count", relative_path=other.relative_path, offset=other.offset, length=other.length)


def cut(folder: Path) -> None:
    (file,) = folder.glob("*.distcp")
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 50)


def missing(folder: Path) -> None:
    next(folder.glob("*.distcp")).unlink()


def damaged(folder: Path) -> None:
    """Change one byte of a tensor."""
    (file,) = folder.glob("*.distcp")
    data = bytearray(file.read_bytes())
    at = data.find(STATE["a.weight"].numpy().tobytes())
    data[at] ^= 1
    file.write_bytes(data)


class Run:
    def __reduce__(self):
        return (exec, ("open('owned', 'w')",))


def dtype(kind: torch.dtype) -> Callable[[Any], None]:
    return lambda content: setattr(content.state_dict_metadata["a.weight"].properties, "dtype", kind)


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file out": (item(relative_path="../x.distcp"), "names the file `../x.distcp`, which is not inside its folder"),
    "an absolute file": (item(relative_path="/etc/passwd"), "is not inside its folder"),
    "a file of no name": (item(relative_path=""), "is not inside its folder"),
    "a folder for a file": (item(relative_path="."), "lacks its file"),
    "a number for a file": (item(relative_path=3), "where `a.weight` lies makes no sense"),
    "a link out": (out_by_a_link, "is a link out of the folder"),
    "a linked folder": (out_by_a_linked_folder, "is a link out of the folder"),
    "a missing file": (missing, "lacks its file `__0_0.distcp`"),
    "a file cut off": (cut, "lies beyond the end of"),
    "a damaged tensor": (damaged, "is damaged: its bytes have another checksum"),
    "a negative offset": (item(offset=-1), "where `a.weight` lies makes no sense"),
    "an offset elsewhere": (item(offset=1), "bytes"),
    "a length too small": (item(length=100), "is cut off or damaged"),
    "a length too large": (item(length=1 << 62), "in the same bytes"),
    "an extension": (item(transform_descriptors=["zstd"]), "`a.weight` in `c/.metadata` is compressed"),
    "the same bytes": (same_bytes, "lie in the same bytes"),
    "overlapping chunks": (chunks(((0, 0), (4, 4)), ((3, 0), (3, 4))), "overlap, leave a gap"),
    "a missing chunk": (chunks(((0, 0), (2, 4)), ((4, 0), (2, 4))), "overlap, leave a gap"),
    "an overlap and a gap": (chunks(((0, 0), (3, 4)), ((2, 0), (3, 4))), "overlap, leave a gap"),
    "a chunk too large": (chunks(((0, 0), (6, 5)),), "overlap, leave a gap"),
    "no chunks": (chunks(), "overlap, leave a gap"),
    "a chunk of fewer dimensions": (chunks(((0,), (6,)),), "another number of dimensions"),
    "chunks of the same place": (
        chunks(((0, 0), (6, 4)), ((0, 0), (6, 4))), "lie in the same bytes",
    ),
    "a chunk that is nowhere": (
        entry(lambda c: c.storage_data.pop(next(i for i in c.storage_data if i.fqn == "a.weight"))),
        "does not say where the chunk of `a.weight` at [0, 0] lies",
    ),
    "another shape": (
        entry(lambda c: setattr(c.state_dict_metadata["a.weight"], "size", torch.Size([6, 5]))), "overlap, leave a gap",
    ),
    "another type": (entry(dtype(torch.int32)), "is F32 of the shape [6, 4], not as the metadata says"),
    "another shape inside": (payload(torch.ones(4, 6)), "is F32 of the shape [4, 6], not as the metadata says"),
    "a repeated row": (payload(torch.ones(1, 4).expand(6, 4)), "a view that repeats its memory"),
    "a list inside": (payload([1]), "what rebuilds it makes no sense"),
    "code inside": (payload({"a": Run()}), "is a `__builtin__.exec`"),
    "a foreign global": (entry(lambda c: setattr(c, "planner_data", Run())), "names `builtins.exec`"),
    "a foreign global in a path": (
        entry(lambda c: setattr(c, "planner_data", {"a.weight": (Run(),)})), "names `builtins.exec`",
    ),
    "no path": (entry(lambda c: c.planner_data.update({"a.weight": ()})), "the way to `a.weight` makes no sense"),
    "two entries in one place": (
        entry(lambda c: c.planner_data.update({"a.weight": ("b.count",)})), "two entries are in the place of",
    ),
    "an entry in another": (
        entry(lambda c: c.planner_data.update({"b.count": ("a.weight", "x")})), "lies within another entry",
    ),
    "no entries": (entry(lambda c: setattr(c, "state_dict_metadata", {})), "holds no state dict"),
    "no list of entries": (entry(lambda c: setattr(c, "state_dict_metadata", None)), "lacks the list of its entries"),
    "a type unknown": (entry(dtype(torch.qint8)), "names `torch.qint8`"),
    "something else": (lambda f: (f / ".metadata").write_bytes(pickle.dumps([1])), "a Metadata was expected"),
    "no pickle": (lambda f: (f / ".metadata").write_bytes(b"hello"), "is no valid pickle"),
    "nothing": (lambda f: (f / ".metadata").write_bytes(b""), "ends before its pickle does"),
    "more behind it": (
        lambda f: (f / ".metadata").write_bytes((f / ".metadata").read_bytes() + b"x"), "has 1 bytes behind its end",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_a_folder_that_lies_is_refused_for_it(recon, kind):
    change, words = REFUSED[kind]
    folder = save({key: value for key, value in STATE.items() if not value.is_complex()}, Path("c"))
    change(folder)
    before = sorted(Path().rglob("*"))
    recon("split", "c", "--layers", "a", "--tasks", "x,y", "-o", "b.safetensors").refuses(words)
    assert sorted(Path().rglob("*")) == before
