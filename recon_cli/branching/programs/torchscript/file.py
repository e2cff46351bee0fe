"""Writing a branched TorchScript file under its name, with its manifest inside."""

from __future__ import annotations

import builtins
import zlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from recon_cli.artifacts.publish import reserve, write_all
from recon_cli.branching.programs.torchscript.process import BranchedScript
from recon_cli.checkpoints.archives.reading import Archive
from recon_cli.checkpoints.archives.writing import ArchiveLayout
from recon_cli.checkpoints.inputs import InputFile
from recon_cli.checkpoints.programs.exported import EXTRA_FILES
from recon_cli.checkpoints.programs.script_classes import MAX_CODE_BYTES
from recon_cli.checkpoints.programs.torchscript import TorchScriptSource
from recon_cli.checkpoints.safetensors_writer import Digests, Places, unknown_digests
from recon_cli.checkpoints.streaming import Advance, FilePlace, Run, digests_of, stream
from recon_cli.checkpoints.tensors import CheckpointSource
from recon_cli.checkpoints.torch_files.content import MANIFEST
from recon_cli.checkpoints.torch_files.writer import ROOT
from recon_cli.checkpoints.writing import Carried, CheckpointWriter
from recon_cli.errors import ReconError, listed

_TENSORS = ("data/", "constants/")
_MANIFEST = EXTRA_FILES + MANIFEST


class ScriptFileWriter(CheckpointWriter):
    """A TorchScript file, which carries the text as one of its extra files.

    :param source: the checkpoint that was branched.
    :param script: what was made of it.
    :param places: for every tensor of the source, the names under which it stands in the branched file.
    :raises ReconError: if the branched file has other tensors.
    """

    def __init__(
        self, path: Path, source: CheckpointSource, script: BranchedScript, places: Places, carried: Carried
    ) -> None:
        self.paths = (path,)
        self._source = source
        self._script = script
        self._places = places
        self._carried = carried
        with TorchScriptSource(script.path) as made:
            found = {tensor.key: (tensor.dtype, tensor.shape) for tensor in made.tensors}
        wanted = {name: (tensor.dtype, tensor.shape) for tensor in source.tensors for name in places[tensor.key]}
        _check_same(found, wanted)
        with closing(InputFile(script.path)) as file:
            archive = Archive(file)
            self._tensors = {name: archive.member(name).bytes for name in archive.names if name.startswith(_TENSORS)}
            self._small = {
                name: archive.read(name, MAX_CODE_BYTES) for name in archive.names if name not in self._tensors
            }
        sizes = {**self._tensors, **{name: len(content) for name, content in self._small.items()}}
        text = len(self._text(unknown_digests(source)))
        self._archive = ArchiveLayout(ROOT, [*sizes.items(), (_MANIFEST, text)])

    def bytes(self) -> int:
        """The size of the file."""
        return self._archive.size

    def write(self, descriptors: Sequence[int], advance: Advance | None = None) -> Digests:
        """Write the file.

        :raises ReconError: if the branched file's tensors have other values than the source's.
        """
        (descriptor,) = descriptors
        reserve(descriptor, self._archive.size)
        digests = digests_of(self._source.tensors)
        self._source.check_unchanged()
        with TorchScriptSource(self._script.path) as made:
            found = digests_of(made.tensors)
        _check_same(found, {name: digests[key] for key in digests for name in self._places[key]})
        small = {**self._small, _MANIFEST: self._text(digests)}
        crcs = {name: zlib.crc32(content) for name, content in small.items()}
        for name, content in small.items():
            write_all(descriptor, content, self._archive.offsets[name])
        crcs.update(self._copy_tensors(descriptor, advance))
        self._archive.write_headers(descriptor, crcs)
        return digests

    def _copy_tensors(self, descriptor: int, advance: Advance | None) -> dict[str, int]:
        """Copy the storages, and give the checksum of each."""
        with closing(InputFile(self._script.path)) as file:
            archive = Archive(file)
            offsets = self._archive.offsets
            runs = [
                Run(archive.member(name), 0, size, [FilePlace(descriptor, offsets[name])], digest=False, crc=True)
                for name, size in self._tensors.items()
            ]
            sums = stream(runs, advance)
        return {name: found.crc or 0 for name, found in zip(self._tensors, sums, strict=True)}

    def _text(self, digests: Digests) -> builtins.bytes:
        return self._carried.text(digests).encode()


def _check_same(found: Mapping[str, object], wanted: Mapping[str, object]) -> None:
    wrong = sorted(name for name in {**found, **wanted} if found.get(name) != wanted.get(name))
    if wrong:
        raise ReconError(
            f"the branched TorchScript file would not hold the tensors that it should: {listed(wrong)}",
            "name the output .safetensors for the weights alone",
        )
