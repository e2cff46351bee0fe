"""Checking that a branched checkpoint is what its manifest says, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from recon_cli.artifacts.manifest import Manifest
from recon_cli.artifacts.verification import Verification
from recon_cli.branching.bare import open_as_recorded, open_branched
from recon_cli.branching.manifests import find_manifest, read_manifest
from recon_cli.branching.plan import plan_branching
from recon_cli.checkpoints.sniffing import Program, check_is_stored, sniff_format
from recon_cli.checkpoints.streaming import digests_of
from recon_cli.checkpoints.tensors import CheckpointSource, TensorInfo
from recon_cli.errors import ReconError, quoted


def verify(branched: Path, source: Path, manifest: Path | None = None, *, allow_code: bool = False) -> Verification:
    """Check a freshly split checkpoint against its source and its manifest.

    Every tensor of the source has to be in the manifest with its type, shape and digest; every tensor of the branched
    file has to be one that the manifest names, with the same bytes as its original.

    :param manifest: the manifest's file; without it, the manifest inside the branched file.
    :param allow_code: whether programs may be loaded, although that can run code from their files; then exported
        ones are run on the source's example inputs, and outputs and gradients have to be equal as well, and the graphs
        of TorchScript files are compared.
    :raises ReconError: if a file cannot be read. What merely disagrees is listed in the result.
    """
    for checkpoint in (branched, source):
        check_is_stored(checkpoint)
    record = read_manifest(manifest or branched)
    with open_as_recorded(source, record.source) as file:
        problems = [*_source_problems(file, record), *_plan_problems(file, record)]
    with open_branched(branched, record) as file:
        if manifest is not None and find_manifest(branched) not in (None, record):
            problems.append(f"the manifest {quoted(manifest)} is not the one inside the branched checkpoint")
        found = _digested(file)
    kept = copies = 0
    for tensor in record.tensors:
        for place in tensor.places:
            problem = _difference(found.pop(place, None), tensor.dtype, tensor.shape, tensor.digest)
            if problem:
                problems.append(f"{quoted(place)} of the branched checkpoint {problem}")
            elif tensor.copies is None:
                kept += 1
            else:
                copies += 1
    problems += [f"{quoted(key)} of the branched checkpoint is not in the manifest" for key in found]
    differences: list[str] = []
    compared: Literal["run", "graphs"] | None = None
    not_compared: str | None = None
    kind = _common_kind(branched, source) if allow_code else None
    if kind is not None:
        from recon_cli.branching.programs.behaviour import NotComparedError, program_problems

        try:
            differences = program_problems(source, branched, record, kind)
            compared = "run" if kind == "exported" else "graphs"
        except NotComparedError as error:
            not_compared = str(error)
    return Verification(
        passed=not problems and not differences,
        kept=kept,
        copies=copies,
        compared=compared,
        not_compared=not_compared,
        problems=(*problems, *differences),
    )


def _common_kind(*paths: Path) -> Program | None:
    """The kind of program that all files are; None if they are none."""
    kinds = {sniff_format(path) if path.is_file() else None for path in paths}
    found = kinds.pop() if len(kinds) == 1 else None
    return found if found == "torchscript" or found == "exported" else None


def _digested(source: CheckpointSource) -> dict[str, tuple[TensorInfo, str]]:
    """Every tensor of a checkpoint with the digest of its bytes."""
    digests = digests_of(source.tensors)
    return {tensor.key: (tensor, digests[tensor.key]) for tensor in source.tensors}


def _source_problems(source: CheckpointSource, manifest: Manifest) -> Iterator[str]:
    records: Mapping[str, object] = {record.key: record for record in manifest.tensors}
    found = _digested(source)
    for record in manifest.tensors:
        problem = _difference(found.get(record.key), record.dtype, record.shape, record.digest)
        if problem:
            yield f"{quoted(record.key)} of the source {problem}"
    yield from (f"{quoted(key)} of the source is not in the manifest" for key in found if key not in records)


def _plan_problems(source: CheckpointSource, manifest: Manifest) -> Iterator[str]:
    """The copies that a split of these layers would have called otherwise."""
    try:
        keys = (tensor.key for tensor in source.tensors)
        plan = plan_branching(keys, manifest.layers, manifest.tasks, statistics=manifest.statistics)
    except ReconError as error:
        yield f"the manifest's split is not possible: {error.message}"
        return
    for record in manifest.tensors:
        if record.key in plan.places and plan.copies.get(record.key) != record.copies:
            yield f"{quoted(record.key)} is not where the split of the manifest's layers puts it"


def _difference(found: tuple[TensorInfo, str] | None, dtype: str, shape: tuple[int, ...], digest: str) -> str | None:
    if found is None:
        return "is missing"
    tensor, own_digest = found
    if (tensor.dtype, tensor.shape) != (dtype, shape):
        return f"is {tensor.dtype} {list(tensor.shape)}, but the manifest says {dtype} {list(shape)}"
    return None if own_digest == digest else "has other values than the manifest says"
