"""Branched checkpoints for tests, in every form, of any partition of the tasks, with any values in the branches."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from hypothesis import strategies as st
from torch import nn

from recon_cli.artifacts import strict_json
from recon_cli.artifacts.manifest import (
    Branch,
    Manifest,
    Selection,
    Size,
    Sizes,
    SourceCheckpoint,
    Split,
    SplitLayer,
    SplitStatistics,
    TensorRecord,
)
from recon_cli.artifacts.versions import Versions
from recon_cli.branching.plan import BranchingPlan, plan_branching
from recon_cli.checkpoints.memory_source import TensorSource
from recon_cli.checkpoints.streaming import digests_of
from recon_cli.checkpoints.writing import Carried, flat_writer

TASKS = ("seg", "depth", "edges")


def manifest_of(state: Mapping[str, torch.Tensor], found: Sequence[Split], tasks: Sequence[str]) -> Manifest:
    """The manifest of a state dict in which these layers and statistics are split."""
    layers = tuple(each for each in found if isinstance(each, SplitLayer))
    statistics = tuple(each for each in found if isinstance(each, SplitStatistics)) or None
    plan = plan_branching(state, layers, tasks, statistics=statistics)
    size = Size(parameters=1, parameter_bytes=4, tensors=1, tensor_bytes=4)
    with TensorSource(state, "it") as source:
        digests = digests_of(source.tensors)
        records = tuple(
            TensorRecord(
                key=t.key, dtype=t.dtype, shape=t.shape, digest=digests[t.key],
                copies=dict(plan.copies[t.key]) if t.key in plan.copies else None,
            )
            for t in source.tensors
        )  # fmt: skip
    return Manifest(
        tasks=tuple(tasks), batchnorm="unknown" if statistics is None else "per-stream", layers=layers,
        statistics=statistics, tensors=records,
        sizes=Sizes(before=size, after=size, split_parameters=1, shared_parameters=None),
        source=SourceCheckpoint(name="x", format="torch", digest=digests[next(iter(state))]),
        selection=Selection(policy="layers", argument="x", ranking_digest=None), versions=Versions(recon="0"),
    )  # fmt: skip


def write_branched(
    path: Path, state: Mapping[str, torch.Tensor], manifest: Manifest, shard_size: int | None = None
) -> Path:
    """Write what a split makes of a state dict, with the manifest inside; returns the file to name."""
    text = strict_json.encode(manifest.to_json(), indent=None).decode()
    places = {record.key: record.places for record in manifest.tensors}
    with TensorSource(state, "it") as source:
        carried = Carried(Manifest.METADATA_KEY, lambda _: text)
        writer = flat_writer(path, source, places, carried=carried, shard_size=shard_size)
        descriptors = [os.open(each, os.O_RDWR | os.O_CREAT | os.O_TRUNC) for each in writer.paths]
        writer.write(descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
    return writer.paths[-1]


class Network(nn.Module):
    """Bare parameters, buffers, layers within layers, statistics, tied weights, and a head for each task."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.randn(3))
        self.embed = nn.Embedding(5, 4)
        self.norm = nn.BatchNorm1d(4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.empty = nn.ParameterDict({"weight": torch.zeros(0, 2)})
        self.decode = nn.Linear(4, 5)
        self.decode.weight = self.embed.weight
        self.decode.register_buffer("mask", torch.tensor([True, False]))
        self.heads = nn.ModuleDict({task: nn.Linear(4, 2) for task in TASKS})
        self.to(dtype)
        self.scale = nn.Parameter(torch.randn((), dtype=torch.complex64))


STATISTICS = ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked")
LAYERS = ("shift", "scale", "embed", "norm", "attention", "attention.out_proj", "empty", "heads.seg")


@st.composite
def splits(draw: st.DrawFn) -> tuple[Network, tuple[Split, ...], list[str]]:
    """A network with values of its own, some layers, or statistics, split among groups of tasks, and the tasks."""
    torch.manual_seed(draw(st.integers(0, 2**31)))
    network = Network(draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16])))
    tasks = draw(st.lists(st.sampled_from(["seg", "depth", "1st", "a-b"]), min_size=2, unique=True))
    found: list[Split] = []
    names = draw(st.lists(st.sampled_from(LAYERS), min_size=1, unique=True))
    norm_is_shared = "norm" not in names and draw(st.booleans())
    for name in (*names, "norm") if norm_is_shared else names:
        groups: dict[int, list[str]] = {}
        for task in tasks:
            groups.setdefault(draw(st.integers(0, len(tasks) - 1)), []).append(task)
        branches = tuple(Branch(id=f"b{number}", tasks=tuple(group)) for number, group in groups.items())
        if name == "norm" and norm_is_shared:
            found.append(SplitStatistics(name=name, branches=branches, buffers=STATISTICS))
        else:
            found.append(SplitLayer(name=name, aliases=("decode",) if name == "embed" else (), branches=branches))
    return network, tuple(found), tasks


FORMS = ("x.safetensors", "x.pt", "sharded.safetensors")


def shard_size_of(form: str) -> int | None:
    """The size of shards that makes several of a small network."""
    return 100 if form.startswith("sharded") else None


def plan_of(state: Mapping[str, torch.Tensor], manifest: Manifest) -> BranchingPlan:
    """The plan of a manifest."""
    return plan_branching(state, manifest.layers, manifest.tasks, statistics=manifest.statistics)


def bits(value: torch.Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    """A tensor as what can be compared bit for bit."""
    raw = value.detach().clone(memory_format=torch.contiguous_format).view(-1)
    return value.dtype, tuple(value.shape), bytes(raw.view(torch.uint8).tolist()) if raw.numel() else b""


def all_bits(state: Mapping[str, torch.Tensor]) -> list[tuple[str, object]]:
    """A state dict, order and all, as what can be compared bit for bit."""
    return [(key, bits(value)) for key, value in state.items()]
