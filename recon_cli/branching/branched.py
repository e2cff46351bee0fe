"""An open branched checkpoint, checked against its manifest: what of it belongs to which task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recon_cli.artifacts.manifest import Manifest, Split, TensorRecord
from recon_cli.artifacts.plain import Retyped
from recon_cli.branching.bare import weights_key
from recon_cli.branching.manifests import read_manifest
from recon_cli.checkpoints.opening import open_checkpoint
from recon_cli.checkpoints.rearranged import Origin, Rearranged
from recon_cli.checkpoints.sniffing import check_is_stored
from recon_cli.checkpoints.tensors import CheckpointSource, StoredTensor, is_fractional
from recon_cli.errors import ReconError, counted, did_you_mean, listed, quoted
from recon_cli.layers.names import layer_of


@dataclass(frozen=True)
class BranchedCheckpoint:
    """An open branched checkpoint whose names, shapes and types fit its manifest; its values may have been trained.

    :ivar places: the manifest's name of every tensor -> the tensor.
    :ivar splits: the key of every split tensor -> its layer, or the statistics that it belongs to.
    :ivar prefix: what all names began with in the source, but not in the manifest.
    :ivar found_prefix: what all names begin with in the file instead.
    """

    source: CheckpointSource
    manifest: Manifest
    places: Mapping[str, StoredTensor]
    splits: Mapping[str, Split]
    prefix: str
    found_prefix: str

    def place(self, record: TensorRecord, task: str) -> str:
        """The manifest's name of the tensor that stands for one of the source's in a task's network."""
        if record.copies is None:
            return record.key
        return record.copies[self.splits[record.key].branch_of(task)]

    def origin(self, *places: str) -> Origin:
        """What is made from tensors of these names, with the values of the first."""
        tensors = [self.places[place] for place in places]
        return Origin(tensors[0], tuple(tensor.key for tensor in tensors))

    def rearranged(self, origins: Mapping[str, Origin]) -> Rearranged:
        """A checkpoint of the original module.

        :param origins: what each of its tensors is made from, by the manifest's names in the manifest's order.
        """
        named = {self.prefix + key: origin for key, origin in origins.items()}
        return Rearranged(self.source, named, left_out=[Manifest.METADATA_KEY])

    def of_task(self, task: str) -> Rearranged:
        """The checkpoint of the original module in which every split layer is the branch that a task uses.

        :raises ReconError: if there is no such task.
        """
        if task not in self.manifest.tasks:
            raise ReconError(
                f"the branched checkpoint has no task {quoted(task)}",
                did_you_mean(task, self.manifest.tasks) or f"its tasks: {listed(self.manifest.tasks)}",
            )
        return self.rearranged({record.key: self.origin(self.place(record, task)) for record in self.manifest.tensors})

    @property
    def kept(self) -> int:
        """The number of tensors that are not split."""
        return sum(record.copies is None for record in self.manifest.tensors)

    @property
    def retyped(self) -> tuple[Retyped, ...]:
        """The types of numbers that are others than the manifest says."""
        found = Counter(
            (record.dtype, self.places[record.places[0]].dtype) for record in self.manifest.tensors
        )  # fmt: skip
        return tuple(
            Retyped(source=source, found=own, tensors=count) for (source, own), count in found.items() if source != own
        )

    def described(self, branched: Path, files: Iterable[Path], plain: CheckpointSource) -> dict[str, Any]:
        """What documents say of a plain checkpoint that was made from this one.

        :param branched: this one's file.
        :param files: what was written.
        """
        return {
            "checkpoint": branched.name,
            "files": tuple(path.name for path in files),
            "tensors": len(plain.tensors),
            "tensor_bytes": sum(tensor.bytes for tensor in plain.tensors),
            "kept": self.kept,
            "prefix": self.prefix,
            "found_prefix": self.found_prefix,
            "retyped": self.retyped,
        }


@contextmanager
def open_fitting(path: Path, manifest: Path | None = None, key: str | None = None) -> Iterator[BranchedCheckpoint]:
    """Open a branched checkpoint, trained or not.

    :param manifest: the manifest's file; without it, the manifest inside the checkpoint.
    :param key: the path of the weights in a torch file that holds more.
    :raises ReconError: naming what is missing, too much, or of another shape or type than the manifest says.
    """
    check_is_stored(path)
    record = read_manifest(manifest or path)
    # What carries its own manifest is as `recon split` wrote it.
    with open_checkpoint(path, weights_key(record) if manifest is None and key is None else key) as source:
        yield fit(source, record, quoted(path))


def fit(source: CheckpointSource, manifest: Manifest, what: str) -> BranchedCheckpoint:
    """Find the tensors of a manifest in a checkpoint.

    Numbers may have another precision than the manifest says (a module that was converted to bfloat16, say), the same
    in all branches of a tensor. Names may stand behind a wrapper's prefix.

    :param what: what messages call the checkpoint.
    :raises ReconError: naming what is missing, too much, or of another shape or type than the manifest says.
    """
    own = {tensor.key: tensor for tensor in source.tensors}
    names = [place for record in manifest.tensors for place in record.places]
    in_file, in_manifest = _prefixes(own, names)
    found = {name: own.get(in_file + name[len(in_manifest) :]) for name in names}
    _check_names(own, found, what)
    places = {name: tensor for name, tensor in found.items() if tensor is not None}
    for record in manifest.tensors:
        _check_form(record, [places[place] for place in record.places], what)
    prefix = manifest.source.prefix
    # A part that all names of the bare module begin with is no prefix.
    found_prefix = prefix if in_file == prefix + in_manifest else in_file
    return BranchedCheckpoint(source, manifest, places, _splits(manifest), prefix, found_prefix)


def _prefixes(keys: Collection[str], names: Collection[str]) -> tuple[str, str]:
    """What stands before the names that a file and a manifest share, in each of the two."""
    known = set(keys)
    candidates = [(file, manifest) for file in _common(keys) for manifest in _common(names)]

    def matches(prefixes: tuple[str, str]) -> int:
        file, manifest = prefixes
        return sum(file + name[len(manifest) :] in known for name in names)

    return max(candidates, key=lambda prefixes: (matches(prefixes), -len("".join(prefixes))))


def _common(names: Collection[str]) -> list[str]:
    """The parts, up to a dot, that all names begin with; first the empty one."""
    first = min(names, default="")
    last = max(names, default="")
    parts = first.split(".")[:-1]
    prefixes = ["".join(f"{part}." for part in parts[:count]) for count in range(len(parts) + 1)]
    # What the first and the last name in order begin with, all between them do.
    return [prefix for prefix in prefixes if last.startswith(prefix)]


def _check_names(own: Mapping[str, StoredTensor], found: Mapping[str, StoredTensor | None], what: str) -> None:
    missing = [name for name, tensor in found.items() if tensor is None]
    used = {tensor.key for tensor in found.values() if tensor is not None}
    extra = [key for key in own if key not in used]
    problems = []
    if missing:
        problems.append(f"it lacks {len(missing)} of {counted(len(found), 'tensor')}: {listed(missing)}")
    if extra:
        problems.append(f"it holds {counted(len(extra), 'tensor')} that the manifest does not name: {listed(extra)}")
    if problems:
        raise ReconError(
            f"{what} does not fit its manifest: {'; '.join(problems)}",
            "give the state dict of the branched module, and the manifest of that checkpoint with --manifest",
        )


def _check_form(record: TensorRecord, tensors: list[StoredTensor], what: str) -> None:
    for place, tensor in zip(record.places, tensors, strict=True):
        if tensor.shape != record.shape or _kind(tensor.dtype) != _kind(record.dtype):
            raise ReconError(
                f"{what} does not fit its manifest: {quoted(place)} is {tensor.dtype} {list(tensor.shape)}, "
                f"but the manifest says {record.dtype} {list(record.shape)}",
                "give the manifest of this checkpoint with --manifest",
            )
        if tensor.dtype != tensors[0].dtype:
            raise ReconError(
                f"the branches {listed([record.places[0], place])} of {what} have different types: "
                f"{tensors[0].dtype} and {tensor.dtype}",
                "convert the whole module",
            )


def _kind(dtype: str) -> str:
    """What a conversion of a module's precision does not change: floating numbers, complex ones, or any other type."""
    if not is_fractional(dtype):
        return dtype
    return "complex" if dtype.startswith("C") else "floating"


def _splits(manifest: Manifest) -> dict[str, Split]:
    """The layer of every tensor that is split, or the statistics that it belongs to.

    :raises ReconError: if the manifest does not say which it is, or what its branches are called.
    """
    by_name = {name: layer for layer in manifest.layers for name in (layer.name, *layer.aliases)}
    by_key = {key: each for each in manifest.statistics or () for key in each.buffers}
    splits: dict[str, Split] = {}
    for record in manifest.tensors:
        if record.copies is None:
            continue
        split = by_key.get(record.key) or by_name.get(layer_of(record.key))
        if split is None or {branch.id for branch in split.branches} != set(record.copies):
            raise ReconError(
                f"the manifest contradicts itself: {quoted(record.key)} is split, but not as any of its layers",
                "take the manifest that `recon split` wrote",
            )
        splits[record.key] = split
    return splits
