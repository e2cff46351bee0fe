"""What is in a checkpoint, also in one that other commands would refuse."""

from __future__ import annotations

from pathlib import Path

from recon_cli.artifacts.inspection import (
    Branching,
    ForeignPart,
    InspectedCheckpoint,
    InspectedEntry,
    InspectedFile,
    Refusal,
)
from recon_cli.artifacts.manifest import Manifest
from recon_cli.branching.manifests import find_manifest
from recon_cli.checkpoints.carried import is_checkpoint
from recon_cli.checkpoints.inputs import InputFile
from recon_cli.checkpoints.opening import open_checkpoint
from recon_cli.checkpoints.prefixes import wrapper_prefix
from recon_cli.checkpoints.sharded_source import is_index, read_index, shard_path
from recon_cli.checkpoints.sniffing import sniff_format
from recon_cli.checkpoints.tensors import CheckpointSource
from recon_cli.checkpoints.torch_files.source import TorchSource, open_content
from recon_cli.errors import ReconError
from recon_cli.inspection.contents import Contents, contents_of_source, contents_of_torch_file, joined
from recon_cli.inspection.layers import inspect_layers, inspect_storages, summarise


def inspect_checkpoint(path: Path, key: str | None = None) -> tuple[list[InspectedFile], InspectedCheckpoint]:
    """The files of a checkpoint, and what is in them.

    :param key: the path of the weights in a torch file that holds more.
    :raises ReconError: if nothing of it can be read, or there is nothing under the key.
    """
    try:
        source = open_checkpoint(path, key)
    except ReconError as refusal:
        if is_index(path):
            files, contents = _refused_shards(path, key, refusal)
        else:
            files, contents = [_file(path.name, path)], _refused_file(path, key, refusal)
        return files, _record(path, contents, refusal)
    with source:
        files = [_file(each.name, each) for each in source.paths or _files(path)]
        return files, _record(path, _contents(source, path, key), None)


def _contents(source: CheckpointSource, path: Path, key: str | None) -> Contents:
    if isinstance(source, TorchSource):
        return contents_of_torch_file(source.content, path, key)
    return contents_of_source(source)


def _refused_file(path: Path, key: str | None, refusal: ReconError) -> Contents:
    """What is in a torch file that is not opened; the refusal if that cannot be read either."""
    try:
        is_torch = sniff_format(path) == "torch"
    except ReconError:
        raise refusal from None
    if not is_torch:
        raise refusal
    file = InputFile(path)
    try:
        try:
            content = open_content(file)
        except ReconError:
            raise refusal from None
        return contents_of_torch_file(content, path, key)
    finally:
        file.close()


def _refused_shards(index: Path, key: str | None, refusal: ReconError) -> tuple[list[InspectedFile], Contents]:
    """What is in those files of an index that can be read; the refusal if none can."""
    try:
        names = list(dict.fromkeys(read_index(index)[0].values()))
    except ReconError:
        raise refusal from None
    files = [_file(index.name, index)]
    parts: dict[str, Contents] = {}
    for name in names:
        file, contents = _shard(index, name, key)
        files.append(file)
        if contents is not None:
            parts[name] = contents
    if not parts:
        raise refusal
    return files, joined(parts, len(names))


def _shard(index: Path, name: str, key: str | None) -> tuple[InspectedFile, Contents | None]:
    try:
        path = shard_path(index, name)
    except ReconError as outside:
        return InspectedFile(name=name, bytes=None, problem=outside.message), None
    try:
        source = open_checkpoint(path, key)
    except ReconError as problem:
        file = _file(name, path, problem.message)
        try:
            return file, _refused_file(path, key, problem)
        except ReconError:
            return file, None
    with source:
        return _file(name, path), _contents(source, path, key)


def _files(path: Path) -> list[Path]:
    """The files of a checkpoint that is a folder; else the one that it is."""
    return sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]


def _file(name: str, path: Path, problem: str | None = None) -> InspectedFile:
    return InspectedFile(name=name, bytes=path.stat().st_size if path.is_file() else None, problem=problem)


def _record(path: Path, contents: Contents, refusal: ReconError | None) -> InspectedCheckpoint:
    branching = None
    try:
        branching = _branching(find_manifest(path) if is_checkpoint(path) else None)
    except ReconError as broken:
        refusal = refusal or broken
    tensors = contents.taken.tensors if contents.taken else ()
    prefix = wrapper_prefix([tensor.key for tensor in tensors])
    return InspectedCheckpoint(
        format=contents.form,
        prefix=prefix,
        metadata={key: value for key, value in contents.metadata.items() if key != Manifest.METADATA_KEY},
        branching=branching,
        state_dicts=tuple(summarise(each, taken=each is contents.taken) for each in contents.state_dicts),
        layers=inspect_layers(tensors, prefix),
        storages=inspect_storages(tensors) if contents.has_storages else (),
        entries=tuple(
            InspectedEntry(path=entry.path, kind=entry.kind, tensors=entry.tensors, bytes=entry.bytes)
            for entry in contents.entries
        ),
        foreign=tuple(ForeignPart(path=path, what=what) for path, what in contents.foreign),
        refusal=None if refusal is None else Refusal(message=refusal.message, hint=refusal.hint),
    )


def _branching(manifest: Manifest | None) -> Branching | None:
    if manifest is None:
        return None
    return Branching(
        tasks=manifest.tasks,
        layers=manifest.layers,
        statistics=manifest.statistics,
        source=manifest.source,
        selection=manifest.selection,
    )
