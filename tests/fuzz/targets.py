"""What is fuzzed: each target takes any bytes, and may end in no other exception than ReconError."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
import warnings
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save

from recon_cli.artifacts import strict_json
from recon_cli.artifacts.manifest import Manifest, SplitPlan
from recon_cli.checkpoints.archives.reading import Archive
from recon_cli.checkpoints.distributed.metadata import read_metadata
from recon_cli.checkpoints.inputs import InputFile
from recon_cli.checkpoints.pickles.nodes import walk
from recon_cli.checkpoints.pickles.reading import read_pickle
from recon_cli.checkpoints.pickles.writing import write_pickle
from recon_cli.checkpoints.safetensors_source import SafetensorsSource
from recon_cli.checkpoints.sharded_source import read_index
from recon_cli.checkpoints.tensors import CheckpointSource
from recon_cli.checkpoints.torch_files.source import TorchSource
from recon_cli.errors import ReconError
from tests.hostile.making import Asked, Stored, members_of, pickled, tensor, write_zip

Target = Callable[[bytes], None]

_FOLDER = tempfile.TemporaryDirectory(prefix="recon-fuzz-")


def _as_file(data: bytes) -> Path:
    path = Path(_FOLDER.name) / "input"
    path.write_bytes(data)
    return path


def _check(source: CheckpointSource, size: int) -> None:
    """Whatever was accepted lies within its file."""
    with source:
        for tensor in source.tensors:
            assert 0 <= tensor.begin <= tensor.begin + tensor.bytes <= tensor.extent.bytes <= size
        assert source.ties.keys() <= {tensor.key for tensor in source.tensors}


def safetensors(data: bytes) -> None:
    """The header of a safetensors file."""
    _check(SafetensorsSource(_as_file(data)), len(data))


def index(data: bytes) -> None:
    """The index of a sharded checkpoint."""
    read_index(_as_file(data))


def archive(data: bytes) -> None:
    """The directory and the members of a zip archive."""
    with contextlib.closing(InputFile(_as_file(data))) as file:
        for name in (found := Archive(file)).names:
            found.read(name, 1 << 16)


def pickle(data: bytes) -> None:
    """A pickle: read, walked and written again."""
    node, _ = read_pickle(data)
    for _ in walk(node, "the pickle", repeats=10_000):
        pass
    write_pickle(node)


def torch_file(data: bytes) -> None:
    """A torch file of either form."""
    _check(TorchSource(_as_file(data)), len(data))


def torch_tree(data: bytes) -> None:
    """A pickle in a whole archive, whose checksum would tell that it was changed."""
    path = Path(_FOLDER.name) / "input"
    write_zip(path, members_of(data, dict.fromkeys("012", bytes(16))))
    _check(TorchSource(path), 16)


def distributed(data: bytes) -> None:
    """The metadata of a distributed checkpoint."""
    with contextlib.closing(InputFile(_as_file(data))) as file:
        read_metadata(file)


def documents(data: bytes) -> None:
    """A manifest and a plan."""
    content = strict_json.parse(data, "the document")
    for kind in (Manifest, SplitPlan):
        with contextlib.suppress(ReconError):
            kind.from_content(content, "the document")


TARGETS: Mapping[str, Target] = {
    target.__name__: target
    for target in (safetensors, index, archive, pickle, torch_file, torch_tree, distributed, documents)
}


def run(target: Target, data: bytes) -> None:
    """Give bytes to a target; an error that tells its user what is wrong is no finding."""
    with contextlib.suppress(ReconError):
        target(data)


def seeds() -> dict[str, list[bytes]]:
    """Valid inputs for every target, made anew."""
    state = {"a.weight": torch.zeros(2, 3), "a.count": torch.tensor(1), "b.bias": torch.zeros(1).to(torch.bfloat16)}
    whole, legacy, nested = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save(state, whole)
    torch.save(state, legacy, _use_new_zipfile_serialization=False)
    torch.save({"epoch": 1, "model": state, "ema": [state["a.weight"].t()]}, nested)
    torch_files = [whole.getvalue(), legacy.getvalue(), nested.getvalue()]
    with zipfile.ZipFile(io.BytesIO(torch_files[0])) as members:
        data = members.read("archive/data.pkl")
    size = {"parameters": 1, "parameter_bytes": 4, "tensors": 1, "tensor_bytes": 4}
    manifest = {
        "schema": Manifest.SCHEMA, "tasks": ["x", "y"], "batchnorm": "shared",
        "layers": [{"name": "a", "branches": [{"id": t, "tasks": [t]} for t in "xy"]}],
        "tensors": [{"key": "a.w", "dtype": "F32", "shape": [1], "copies": {t: f"a.tasks.{t}.w" for t in "xy"},
                     "digest": "sha256:" + "0" * 64}],
        "sizes": {"before": size, "after": size, "split_parameters": 1, "shared_parameters": None},
        "source": {"name": "m", "format": "torch", "digest": "sha256:" + "0" * 64},
        "selection": {"policy": "layers", "argument": "a", "ranking_digest": None},
        "versions": {"recon": "0"},
    }  # fmt: skip
    shards = {"metadata": {"total_size": 4}, "weight_map": {"a.weight": "1.safetensors", "b": "2.safetensors"}}
    return {
        "safetensors": [save(state, metadata={"format": "pt"}), save({})],
        "index": [json.dumps(shards).encode()],
        "archive": [torch_files[0], torch_files[2]],
        "pickle": [data, torch_files[1]],
        "torch_file": torch_files,
        "torch_tree": [pickled(tree) for tree in _trees()],
        "distributed": [_distributed_metadata()],
        "documents": [json.dumps(manifest).encode()],
    }


def _trees() -> list[object]:
    """What `torch_tree` takes: every way to rebuild a tensor, on records of 16 bytes."""
    half, untyped = Stored("2", 8, torch.HalfStorage), Stored("0", 16, torch.UntypedStorage)
    return [
        {"w": tensor(), "v": tensor(Stored("1"), 1, (1, 3), (3, 1)), "u": tensor(half, 3, (2, 2), (1, 2))},
        OrderedDict(w=Asked(torch._utils._rebuild_parameter, tensor(), True, OrderedDict()), tied=tensor()),
        {"a": [1, 2.5, None, True, 1 << 70, "text", b"bytes", 1j], "b": {1, 2}, "model": {"x": tensor(), "n": 1}},
        {"optimizer": {"state": {0: {"m": tensor()}}, "param_groups": []}, "net": defaultdict(list, {"w": tensor()})},
        {"w": Asked(torch._utils._rebuild_tensor_v3, untyped, 0, (8,), (1,), False, {}, torch.uint16)},
    ]  # fmt: skip


def _distributed_metadata() -> bytes:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({"model": {"w": torch.zeros(2, 2)}, "step": 3}, checkpoint_id=folder, no_dist=True)
        return (Path(folder) / ".metadata").read_bytes()
