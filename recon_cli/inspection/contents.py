"""What checkpoints of all formats have in common: state dicts, what lies beside them, and what is foreign."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from recon_cli.checkpoints.pickles.nodes import path_text
from recon_cli.checkpoints.tensors import CheckpointSource, Entry, FoundTensor
from recon_cli.checkpoints.torch_files.content import TorchContent
from recon_cli.checkpoints.torch_files.entries import entries_beside
from recon_cli.checkpoints.torch_files.source import find_tensors
from recon_cli.checkpoints.torch_files.weights import candidates, preferred, refusals, state_dicts
from recon_cli.errors import counted, quoted


@dataclass(frozen=True)
class FoundStateDict:
    """A state dict and its tensors, as far as they can be read.

    :ivar key: where it is, as `--key` takes it.
    """

    key: str
    tensors: Sequence[FoundTensor]


@dataclass(frozen=True)
class Contents:
    """What is in a checkpoint.

    :ivar form: what such a file is called.
    :ivar has_storages: whether its tensors are views of storages, which several can share.
    :ivar taken: the state dict that is read as the weights; None if that is not clear.
    :ivar foreign: where something lies that is neither plain data nor a tensor, and what it is.
    """

    form: str
    has_storages: bool
    metadata: Mapping[str, str]
    state_dicts: Sequence[FoundStateDict]
    taken: FoundStateDict | None
    entries: Sequence[Entry] = ()
    foreign: Sequence[tuple[str, str]] = ()


def contents_of_source(source: CheckpointSource) -> Contents:
    """The contents of a checkpoint that is read as it is."""
    tensors = [FoundTensor(tensor.key, tensor, source.ties.get(tensor.key)) for tensor in source.tensors]
    weights = FoundStateDict("", tensors)
    return Contents(source.form, source.FORMAT == "torch", source.metadata, [weights], weights, source.entries)


def contents_of_torch_file(content: TorchContent, path: Path, key: str | None) -> Contents:
    """The contents of a torch file, whether it is read as it is or not.

    :param key: the path of the weights.
    :raises ReconError: if there is nothing under the key, or the file cannot be walked.
    """
    what = quoted(path)
    foreign = [(path_text(refusal.path), refusal.reason) for refusal in refusals(content.root, what)]
    meant = candidates(content.root, what, key)
    found = {
        each.path: FoundStateDict(each.key, list(find_tensors(each, content)))
        for each in [*state_dicts(content.root, what), *meant]
    }
    chosen = preferred(meant)
    return Contents(
        form=content.FORM,
        has_storages=True,
        metadata=content.carried,
        state_dicts=list(found.values()),
        taken=found[chosen.path] if chosen else None,
        entries=entries_beside(content, what),
        foreign=foreign,
    )


def joined(parts: Mapping[str, Contents], files: int) -> Contents:
    """The contents of those files of one checkpoint that can be read.

    :param parts: by the files' names.
    :param files: how many files there should be.
    """
    weights = FoundStateDict("", [tensor for part in parts.values() if part.taken for tensor in part.taken.tensors])
    forms = sorted({part.form for part in parts.values()})
    return Contents(
        form=", ".join([*forms, f"in {counted(files, 'file')}"]),
        has_storages=any(part.has_storages for part in parts.values()),
        metadata={},
        state_dicts=[weights],
        taken=weights,
        entries=[
            replace(entry, path=f"{name}: {entry.path}") for name, part in parts.items() for entry in part.entries
        ],
        foreign=[(f"{name}: {path}", what) for name, part in parts.items() for path, what in part.foreign],
    )
