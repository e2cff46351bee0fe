"""Reading the folder that `torch.distributed.checkpoint` wrote: tensors in chunks, each an archive within a file."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from recon_cli.checkpoints.containment import path_beside
from recon_cli.checkpoints.distributed.metadata import (
    Chunk,
    DistributedTensor,
    Metadata,
    StoredItem,
    read_metadata,
)
from recon_cli.checkpoints.distributed.tiling import tile
from recon_cli.checkpoints.extents import ConcatenatedExtent, Extent
from recon_cli.checkpoints.gathering import AssembledExtent, Block, GatheredExtent, row_major
from recon_cli.checkpoints.inputs import InputFile
from recon_cli.checkpoints.pickles.nodes import Call, Global
from recon_cli.checkpoints.tensors import DTYPE_BITS, CheckpointSource, StoredTensor
from recon_cli.checkpoints.torch_files.content import ZipContent
from recon_cli.checkpoints.torch_files.source import locate
from recon_cli.checkpoints.torch_files.tensor_nodes import NotPlainError, plain_view
from recon_cli.checkpoints.torch_files.weights import choose_weights, refusals
from recon_cli.errors import ReconError, quoted

METADATA = ".metadata"


def is_distributed(folder: Path) -> bool:
    """Whether a folder holds a distributed checkpoint."""
    return (folder / METADATA).is_file()


class DistributedSource(CheckpointSource):
    """The weights in the folder of a distributed checkpoint.

    :param key: the path of the weights in it, if there are several that could be meant.
    :ivar others: the entries that are not among the weights, such as an optimizer's; they are not opened.
    :raises ReconError: if its metadata lies, names anything foreign, or describes what is not supported.
    """

    FORMAT = "distributed"

    def __init__(self, folder: Path, key: str | None = None) -> None:
        self._folder = folder
        self._files: dict[str, InputFile] = {METADATA: InputFile(folder / METADATA)}
        try:
            metadata = read_metadata(self._files[METADATA])
            names, self.key = _weights(metadata, quoted(folder), key)
            self.others = tuple(entry for entry in metadata.entries if entry not in names)
            wanted = {name: metadata.entries[entry] for entry, name in names.items()}
            self._check_apart([tensor for tensor in wanted.values() if tensor])
            self.tensors = tuple(self._stored(name, tensor) for name, tensor in wanted.items() if tensor)
        except BaseException:
            self.close()
            raise
        self.ties: Mapping[str, str] = {}
        self.metadata: Mapping[str, str] = {}
        self.paths = tuple(file.path for file in self._files.values())

    def check_unchanged(self) -> None:
        """Refuse files that were modified since they were opened."""
        for file in self._files.values():
            file.check_unchanged()

    def close(self) -> None:
        """Let go of all files."""
        for file in self._files.values():
            file.close()

    def _check_apart(self, tensors: list[DistributedTensor]) -> None:
        """Refuse items that lie in the same bytes: few bytes must not unfold to many."""
        items = [(chunk.item, tensor) for tensor in tensors for chunk in tensor.chunks if chunk.item]
        items.sort(key=lambda entry: (entry[0].file, entry[0].offset))
        for (before, first), (after, second) in pairwise(items):
            if before.file == after.file and before.offset + before.length > after.offset:
                raise self._lies(f"{quoted(first.key)} and {quoted(second.key)} lie in the same bytes")

    def _stored(self, name: str, tensor: DistributedTensor) -> StoredTensor:
        chunks = [chunk for chunk in tensor.chunks if 0 not in chunk.sizes]
        boxes = [(chunk.offsets, chunk.sizes) for chunk in chunks]
        if not (not boxes if 0 in tensor.shape else tile(boxes, tensor.shape)):
            raise self._lies(f"the chunks of {quoted(tensor.key)} overlap, leave a gap, or reach beyond it")
        if len(chunks) == 1:
            extent, begin = self._locate(tensor, chunks[0])
            return StoredTensor(name, tensor.dtype, tensor.shape, extent, begin)
        blocks = [Block(self._whole(tensor, chunk), chunk.offsets, chunk.sizes) for chunk in chunks]
        what = f"{quoted(tensor.key)} of {quoted(self._folder)}"
        if all(block.sizes[1:] == tensor.shape[1:] for block in blocks):
            blocks.sort(key=lambda block: block.offsets)
            extent = ConcatenatedExtent([block.extent for block in blocks], what)
        else:
            extent = AssembledExtent(blocks, tensor.shape, DTYPE_BITS[tensor.dtype] // 8, what)
        return StoredTensor(name, tensor.dtype, tensor.shape, extent)

    def _whole(self, tensor: DistributedTensor, chunk: Chunk) -> Extent:
        """The chunk's elements and nothing else."""
        extent, begin = self._locate(tensor, chunk)
        itemsize = DTYPE_BITS[tensor.dtype] // 8
        strides = row_major(chunk.sizes)
        whole = GatheredExtent(extent, begin, chunk.sizes, strides, itemsize)
        return extent if begin == 0 and extent.bytes == whole.bytes else whole

    def _locate(self, tensor: DistributedTensor, chunk: Chunk) -> tuple[Extent, int]:
        """Where the elements of a chunk lie row-major, and where in it they begin."""
        assert chunk.item is not None
        file = self._file(chunk.item)
        if chunk.item.offset + chunk.item.length > file.size:
            raise self._lies(f"a chunk of {quoted(tensor.key)} lies beyond the end of {quoted(file.path)}")
        content = ZipContent(file, chunk.item.offset, chunk.item.length)
        foreign = refusals(content.root, content.archive.name)
        if foreign:
            raise ReconError(
                f"a chunk of {quoted(tensor.key)} in {content.archive.name} is {foreign[0].reason},"
                " which is neither plain data nor a tensor, so it is not opened"
            )
        try:
            view = plain_view(content.root)
            if (view.dtype, view.shape) != (tensor.dtype, chunk.sizes):
                raise NotPlainError(f"{view.dtype} of the shape {list(view.shape)}, not as the metadata says")
            return locate(view, content)
        except NotPlainError as problem:
            raise ReconError(f"a chunk of {quoted(tensor.key)} in {content.archive.name} is {problem}") from None

    def _file(self, item: StoredItem) -> InputFile:
        if item.file not in self._files:
            path = path_beside(self._folder / METADATA, item.file, f"the metadata of {quoted(self._folder)}")
            if not path.is_file():
                raise ReconError(
                    f"the distributed checkpoint {quoted(self._folder)} lacks its file {quoted(item.file)}",
                    "copy the whole folder, with the files of all ranks",
                )
            self._files[item.file] = InputFile(path)
        return self._files[item.file]

    def _lies(self, reason: str) -> ReconError:
        return ReconError(f"the metadata of {quoted(self._folder)} makes no sense: {reason}")


_LEAF = Global("torch._utils", "_rebuild_tensor_v2")


def _weights(metadata: Metadata, what: str, key: str | None) -> tuple[dict[str, str], str | None]:
    """The entries that are the weights with their names in the state dict, and where that was found.

    The state dict that was saved is built again with a mark in the place of each tensor, so that the weights in it are
    found as they are in a torch file.
    """
    root: dict[object, object] = {}
    marks: dict[int, str] = {}
    for entry, path in metadata.paths.items():
        node = root
        for step in path[:-1]:
            inner = node.setdefault(step, {})
            if not isinstance(inner, dict):
                raise ReconError(f"the metadata of {what} makes no sense: {quoted(entry)} lies within another entry")
            node = inner
        if path[-1] in node:
            raise ReconError(f"the metadata of {what} makes no sense: two entries are in the place of {quoted(entry)}")
        node[path[-1]] = None
        if metadata.entries[entry]:
            node[path[-1]] = mark = Call(_LEAF)
            marks[id(mark)] = entry
    chosen = choose_weights(root, what, key)
    return {marks[id(mark)]: name for name, mark in chosen.tensors}, chosen.key or None
