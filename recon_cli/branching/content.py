"""What a branched checkpoint holds, in the form that its file name asks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recon_cli.artifacts.manifest import CarriedEntry
from recon_cli.branching.flows import SourceProgram
from recon_cli.branching.plan import BranchingPlan
from recon_cli.branching.training_state import TreeBranching
from recon_cli.checkpoints.pickles.nodes import path_text
from recon_cli.checkpoints.prefixes import Unprefixed
from recon_cli.checkpoints.programs.exported import ExportedSource
from recon_cli.checkpoints.torch_files.source import TorchSource
from recon_cli.checkpoints.torch_files.weights import beside
from recon_cli.checkpoints.torch_files.writer import SourceStorages
from recon_cli.checkpoints.writing import Carried, CheckpointWriter, TorchWriter, flat_writer, is_torch_output
from recon_cli.errors import ReconError, quoted

if TYPE_CHECKING:
    from torch.export import ExportedProgram

PROGRAM_SUFFIX = ".pt2"
"""The ending of names that ask for an exported program."""


@dataclass(frozen=True)
class BranchedContent:
    """What is written, before it is known what the manifest in it says.

    :ivar entries: what lies beside the weights in the source, and what becomes of it.
    :ivar warnings: what is probably not as its user wants it, as sentences.
    """

    path: Path
    source: Unprefixed
    plan: BranchingPlan
    entries: tuple[CarriedEntry, ...] = ()
    shard_size: int | None = None
    tree: tuple[object, SourceStorages] | None = None
    program: ExportedProgram | None = None
    warnings: tuple[str, ...] = ()

    def writer(self, carried: Carried) -> CheckpointWriter:
        """What writes it.

        :param carried: the manifest.
        """
        if self.tree is not None:
            return TorchWriter(self.path, self.source, *self.tree, carried)
        if self.program is not None:
            from recon_cli.branching.programs.writing import ProgramWriter

            return ProgramWriter(self.path, self.source, self.program, carried)
        prefix = self.source.prefix
        places = {key: tuple(prefix + name for name in names) for key, names in self.plan.places.items()}
        return flat_writer(self.path, self.source, places, carried=carried, shard_size=self.shard_size)


def branched_content(
    path: Path,
    source: Unprefixed,
    plan: BranchingPlan,
    parameters: tuple[str, ...],
    shard_size: int | None,
    program: SourceProgram,
) -> BranchedContent:
    """Decide what a branched checkpoint holds.

    A torch file that is written as one keeps all that it holds, and what mirrors the weights is branched along; an
    exported program that is written as one is forked; every other form holds the weights alone.

    :param path: the file that is named for it.
    :param parameters: the names of the source's parameters, in its order.
    :param program: what the source is, if it is an exported program.
    :raises ReconError: if a torch file or a program is to be divided, or a program is not there or cannot be forked.
    """
    if path.suffix.lower() == PROGRAM_SUFFIX:
        return _branched_program(path, source, plan, shard_size, program)
    as_torch = is_torch_output(path, shard_size)
    origin = source.source
    if not isinstance(origin, TorchSource):
        others = tuple(CarriedEntry(path=name, treatment="left out") for name in origin.others)
        return BranchedContent(path, source, plan, others, shard_size)
    if not as_torch:
        return BranchedContent(path, source, plan, _left_out(origin), shard_size)
    storages = SourceStorages(origin.content)
    tensors = {tensor.key: tensor for tensor in source.tensors}
    branching = TreeBranching(plan, source.prefix, tensors, parameters, storages)
    root, entries = branching.branched(origin.content.root, origin.weights.path)
    return BranchedContent(path, source, plan, tuple(entries), tree=(root, storages))


def _branched_program(
    path: Path, source: Unprefixed, plan: BranchingPlan, shard_size: int | None, opened: SourceProgram
) -> BranchedContent:
    origin = source.source
    weights_alone = quoted(path.with_suffix(".safetensors"))
    if not isinstance(origin, ExportedSource):
        raise ReconError(
            f"{quoted(path)} is named like an exported program, but the source is none, so there is nothing to run",
            f"name it {weights_alone}",
        )
    if shard_size is not None:
        raise ReconError(
            f"--shard-size divides safetensors, but {quoted(path)} is named like an exported program",
            f"name it {weights_alone}, or leave --shard-size out",
        )
    from recon_cli.branching.programs.exported import fork_program
    from recon_cli.checkpoints.programs.loading import is_trainable

    (file,) = origin.paths
    program = opened.program
    warnings: tuple[str, ...] = ()
    if not is_trainable(program):
        warnings = (
            f"the exported program {quoted(file)} cannot be trained, nor can {quoted(path)}, because "
            "`run_decompositions` made it functional; split the program as `torch.export.export` returns it",
        )
    kept = tuple(CarriedEntry(path=name, treatment="kept") for name in origin.others)
    forked = fork_program(program, plan.behind(source.prefix))
    return BranchedContent(path, source, plan, kept, program=forked, warnings=warnings)


def _left_out(origin: TorchSource) -> tuple[CarriedEntry, ...]:
    """The entries of a torch file that a file of tensors alone does not hold."""
    weights = origin.weights
    own = {key for key, _ in weights.tensors}
    inside = [(*weights.path, key) for key, _ in weights.items if key not in own]
    paths = [*beside(origin.content.root, weights.path), *inside]
    return tuple(CarriedEntry(path=path_text(path), treatment="left out") for path in paths)
