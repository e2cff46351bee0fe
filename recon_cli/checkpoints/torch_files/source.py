"""The weights in a torch file, as runs of its bytes."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from recon_cli.checkpoints.extents import Extent
from recon_cli.checkpoints.gathering import GatheredExtent, is_row_major
from recon_cli.checkpoints.inputs import InputFile
from recon_cli.checkpoints.tensors import (
    DTYPE_BITS,
    CheckpointSource,
    Entry,
    FoundTensor,
    StoredTensor,
    TensorInfo,
)
from recon_cli.checkpoints.torch_files.content import LegacyContent, TorchContent, ZipContent
from recon_cli.checkpoints.torch_files.entries import entries_beside
from recon_cli.checkpoints.torch_files.tensor_nodes import (
    DamagedError,
    NotPlainError,
    TensorView,
    check_bounds,
    plain_view,
)
from recon_cli.checkpoints.torch_files.weights import StateDict, choose_weights
from recon_cli.errors import ReconError, quoted

_ZIP = b"PK"


class TorchSource(CheckpointSource):
    """A file that `torch.save` wrote, of the present form or the older one.

    :param key: the path of the weights in it, if there are several that could be meant.
    :ivar content: all that is in the file.
    :ivar weights: the state dict that is taken.
    :raises ReconError: if it holds no state dict, anything foreign, or a tensor that is not plain.
    """

    FORMAT = "torch"

    def __init__(self, path: Path, key: str | None = None) -> None:
        self._file = InputFile(path)
        try:
            with _paused_collection():
                self.content: TorchContent = open_content(self._file)
                self.weights: StateDict = choose_weights(self.content.root, quoted(path), key)
                self.tensors, self.ties = stored_tensors(self.weights, self.content, quoted(path))
            _check_unfolding(self.tensors, self._file)
        except BaseException:
            self._file.close()
            raise
        self.metadata: Mapping[str, str] = self.content.carried
        self.key = self.weights.key or None

    @property
    def form(self) -> str:
        """What such a file is called, in words."""
        return self.content.FORM

    @property
    def entries(self) -> Sequence[Entry]:
        """What lies beside the weights."""
        return entries_beside(self.content, quoted(self._file.path))

    def check_unchanged(self) -> None:
        """Refuse a file that was modified since it was opened."""
        self._file.check_unchanged()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


@contextmanager
def _paused_collection() -> Iterator[None]:
    """Millions of nodes are made and stay; to look for garbage among them again and again takes long and finds none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def open_content(file: InputFile) -> TorchContent:
    """The content of a torch file of either form.

    :raises ReconError: if it is none.
    """
    head = file.read(0, min(2, file.size))
    return ZipContent(file) if head == _ZIP else LegacyContent(file)


class TensorList:
    """Tensors with their bytes, as they are found one by one.

    :ivar tensors: in the order in which they were added.
    :ivar ties: for a tensor that lies in the same memory as an earlier one, that one's name.
    """

    def __init__(self) -> None:
        self.tensors: list[StoredTensor] = []
        self.ties: dict[str, str] = {}
        self._first: dict[tuple[object, ...], StoredTensor] = {}

    def add(self, key: str, view: TensorView, content: TorchContent) -> StoredTensor:
        """Add a tensor.

        :raises NotPlainError: if its bytes are not there.
        """
        identity = (content, view.identity)
        tied = self._first.get(identity)
        extent, begin = (tied.extent, tied.begin) if tied else locate(view, content)
        tensor = StoredTensor(key, view.dtype, view.shape, extent, begin)
        self.tensors.append(tensor)
        if tied and tensor.bytes:
            self.ties[key] = tied.key
        self._first.setdefault(identity, tensor)
        return tensor


def stored_tensors(
    weights: StateDict, content: TorchContent, what: str
) -> tuple[tuple[StoredTensor, ...], dict[str, str]]:
    """The tensors of a state dict with their bytes, and which of them are tied to an earlier one.

    :raises ReconError: naming a tensor that is not plain, or whose bytes are not there.
    """
    tensors = []
    ties: dict[str, str] = {}
    for found in find_tensors(weights, content):
        if not isinstance(found.info, StoredTensor):
            path = ".".join([*map(str, weights.path), found.key])
            hint = _DAMAGED if found.damaged else _NOT_PLAIN
            raise ReconError(f"the tensor {quoted(path)} of {what} is {found.problem}", hint)
        tensors.append(found.info)
        if found.tied is not None:
            ties[found.key] = found.tied
    return tuple(tensors), ties


def find_tensors(weights: StateDict, content: TorchContent) -> Iterator[FoundTensor]:
    """The tensors of a state dict, each as far as it can be read."""
    found = TensorList()
    for key, node in weights.tensors:
        info: TensorInfo | None = None
        try:
            view = plain_view(node)
            info = TensorInfo(key, view.dtype, view.shape)
            info = found.add(key, view, content)
        except NotPlainError as problem:
            yield FoundTensor(key, info, problem=str(problem), damaged=isinstance(problem, DamagedError))
            continue
        yield FoundTensor(key, info, found.ties.get(key))


_DAMAGED = "copy or download the file again"
_NOT_PLAIN = "save it as a plain tensor of its own: `tensor.detach().clone().contiguous()`"


def _check_unfolding(tensors: Sequence[StoredTensor], file: InputFile) -> None:
    """Views of one storage, each within it, could add up to more than any disk holds."""
    unfolded = sum(tensor.bytes for tensor in tensors)
    if unfolded > _SMALL_BYTES + _MAX_UNFOLDING * file.size:
        raise ReconError(
            f"{quoted(file.path)} unfolds to {unfolded} bytes of tensors, but has only {file.size}: "
            "its tensors are views of the same memory again and again",
            "save them as tensors of their own: `tensor.clone()`",
        )


_MAX_UNFOLDING = 100
"""No network ties a tensor more often than that, or makes more views of one."""
_SMALL_BYTES = 1 << 30


def locate(view: TensorView, content: TorchContent) -> tuple[Extent, int]:
    """Where the elements of a view lie row-major, and where in it they begin; they are gathered if that is nowhere.

    :raises NotPlainError: if they are not there.
    """
    extent = content.extent(view.storage)
    itemsize = DTYPE_BITS[view.dtype] // 8
    check_bounds(view, extent.bytes // itemsize)
    begin = view.offset * itemsize
    if is_row_major(view.shape, view.strides):
        return extent, begin
    return GatheredExtent(extent, begin, view.shape, view.strides, itemsize), 0
