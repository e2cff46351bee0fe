"""Every cosine of a run, kept in blocks while it is under way and joined into one file at its end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from recon_cli.checkpoints.extents import Extent, Ring
from recon_cli.checkpoints.memory_source import TensorExtent
from recon_cli.checkpoints.safetensors_writer import write_safetensors
from recon_cli.checkpoints.saving import save_state_dict
from recon_cli.checkpoints.tensors import CheckpointSource, StoredTensor
from recon_cli.errors import ReconError, quoted

BLOCK = 64
"""The iterations of a block: as many as a killed process may take with it."""


class CosineLog:
    """Takes the cosines of every measured step.

    :param folder: where the blocks are written, each as a whole or not at all.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._done = 0
        self._block: list[tuple[torch.Tensor, int, int]] = []

    def append(self, rows: torch.Tensor, step: int, stage: int) -> None:
        """Take the cosines of a step.

        :param rows: float64, [L + 1, pairs], as `Measurement.record` gives them.
        :param step: the training step, counted from 0.
        :param stage: the stage, counted from 0.
        """
        # Scores and rankings count stages from 1.
        self._block.append((rows, step, stage + 1))
        if len(self._block) == BLOCK:
            self.flush()
            self._done += BLOCK
            self._block = []

    def flush(self) -> None:
        """Write the block that is not full yet, so that all iterations are on disk."""
        if self._block:
            rows, steps, stages = zip(*self._block, strict=True)
            block = {"cosines": torch.stack(rows), "steps": torch.tensor(steps), "stages": torch.tensor(stages)}
            save_state_dict(block, self._path(self._done), overwrite=True)

    def restore(self, iterations: int) -> None:
        """Go on after some iterations that are on disk; what was measured after them is measured anew.

        :raises ReconError: if they are not there.
        """
        for start in range(0, iterations, BLOCK):
            if not self._path(start).exists():
                raise ReconError(
                    f"the cosines in {quoted(self._path(start))} of the run to go on with are missing",
                    "pass --force without --resume to start anew",
                )
        self._done = iterations // BLOCK * BLOCK
        left = iterations - self._done
        if left:
            block = load_file(self._path(self._done))
            kept = (block["cosines"].unbind(), block["steps"].tolist(), block["stages"].tolist())
            self._block = list(zip(*kept, strict=True))[:left]

    def join(self, descriptor: int, rows: Sequence[int], metadata: Mapping[str, str]) -> None:
        """Write all iterations into one safetensors file, a block at a time.

        :param descriptor: an empty file, open for writing.
        :param rows: which rows of each iteration to keep.
        :param metadata: the file's.
        """
        self.flush()
        total = self._done + len(self._block)
        blocks = [self._path(start) for start in range(0, total, BLOCK)]
        with _Joined(blocks, total, rows) as source:
            places = {tensor.key: (tensor.key,) for tensor in source.tensors}
            write_safetensors(descriptor, source, places, lambda _: metadata)

    def _path(self, start: int) -> Path:
        return self._folder / f"cosines-{start:09d}.safetensors"


class _Joined(CheckpointSource):
    """The blocks one after the other, with some of their rows."""

    FORMAT = "safetensors"

    def __init__(self, blocks: Sequence[Path], iterations: int, rows: Sequence[int]) -> None:
        pairs = load_file(blocks[0])["cosines"].shape[2]
        shapes = {"cosines": (iterations, len(rows), pairs), "steps": (iterations,), "stages": (iterations,)}
        self.tensors = tuple(
            StoredTensor(key, "F64" if key == "cosines" else "I64", shape, _JoinedExtent(key, blocks, rows, shape))
            for key, shape in shapes.items()
        )
        self.ties: Mapping[str, str] = {}
        self.metadata: Mapping[str, str] = {}

    def check_unchanged(self) -> None:
        """The blocks are the run's own."""

    def close(self) -> None:
        """Nothing is held open."""


class _JoinedExtent(Extent):
    """One tensor of all blocks."""

    def __init__(self, key: str, blocks: Sequence[Path], rows: Sequence[int], shape: Sequence[int]) -> None:
        self._key = key
        self._blocks = blocks
        self._rows = list(rows)
        self.bytes = 8 * math.prod(shape)
        self.name = f"the {key} of the run"

    def pieces(self, ring: Ring) -> Iterator[memoryview]:
        """The bytes, block by block."""
        for path in self._blocks:
            value = load_file(path)[self._key]
            part = value[:, self._rows] if self._key == "cosines" else value
            yield from TensorExtent(part, self.name).pieces(ring)
