"""What a branched checkpoint holds, in the form that its file name asks for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recon_cli.artifacts.manifest import BranchedProgram, CarriedEntry
from recon_cli.branching.flows import SourceProgram
from recon_cli.branching.plan import BranchingPlan
from recon_cli.branching.room import check_room_to_work
from recon_cli.branching.training_state import TreeBranching
from recon_cli.checkpoints.pickles.nodes import path_text
from recon_cli.checkpoints.prefixes import Unprefixed
from recon_cli.checkpoints.programs.exported import ExportedSource
from recon_cli.checkpoints.programs.torchscript import TorchScriptSource
from recon_cli.checkpoints.sniffing import PROGRAMS, Program
from recon_cli.checkpoints.tensors import CheckpointSource
from recon_cli.checkpoints.torch_files.source import TorchSource
from recon_cli.checkpoints.torch_files.weights import beside
from recon_cli.checkpoints.torch_files.writer import SourceStorages
from recon_cli.checkpoints.writing import Carried, CheckpointWriter, TorchWriter, flat_writer, is_torch_output
from recon_cli.errors import ReconError, counted, quoted

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from recon_cli.branching.programs.torchscript.process import BranchedScript

EXPORTED_SUFFIX = ".pt2"
"""The ending of names that ask for an exported program."""

SCRIPT_SUFFIXES = (".ts", ".torchscript", ".jit")
"""The endings of names that ask for a TorchScript file; a `.pt` or `.pth` may follow."""


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
    exported: ExportedProgram | None = None
    script: BranchedScript | None = None
    warnings: tuple[str, ...] = ()

    @property
    def program(self) -> BranchedProgram | None:
        """How it computes; None for weights alone."""
        if self.script is not None:
            return BranchedProgram(way=self.script.way, reason=self.script.reason)
        return None if self.exported is None else BranchedProgram(way="fork")

    def writer(self, carried: Carried) -> CheckpointWriter:
        """What writes it.

        :param carried: the manifest.
        """
        if self.tree is not None:
            return TorchWriter(self.path, self.source, *self.tree, carried)
        if self.exported is not None:
            from recon_cli.branching.programs.writing import ProgramWriter

            return ProgramWriter(self.path, self.source, self.exported, carried)
        prefix = self.source.prefix
        places = {key: tuple(prefix + name for name in names) for key, names in self.plan.places.items()}
        if self.script is not None:
            from recon_cli.branching.programs.torchscript.file import ScriptFileWriter

            return ScriptFileWriter(self.path, self.source, self.script, places, carried)
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

    A torch file that is written as one keeps all that it holds, and what mirrors the weights is branched along; a
    program that is written as one of its kind is branched itself; every other form holds the weights alone.

    :param path: the file that is named for it.
    :param parameters: the names of the source's parameters, in its order.
    :param program: what the source is, if it is an exported program.
    :raises ReconError: if a torch file or a program is to be divided, or a program is not there or cannot be forked.
    """
    if path.suffix.lower() == EXPORTED_SUFFIX:
        return _branched_exported(path, source, plan, shard_size, program)
    if _asks_for_script(path):
        return _branched_script(path, source, plan, shard_size, allow_code=program.allow_code)
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


def _branched_exported(
    path: Path, source: Unprefixed, plan: BranchingPlan, shard_size: int | None, opened: SourceProgram
) -> BranchedContent:
    origin = source.source
    _check_program(path, origin, ExportedSource, "exported", shard_size)
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
    return BranchedContent(path, source, plan, kept, exported=forked, warnings=warnings)


def _branched_script(
    path: Path, source: Unprefixed, plan: BranchingPlan, shard_size: int | None, *, allow_code: bool
) -> BranchedContent:
    origin = source.source
    _check_program(path, origin, TorchScriptSource, "torchscript", shard_size)
    from recon_cli.branching.programs.torchscript.places import Places
    from recon_cli.branching.programs.torchscript.process import BranchedScript
    from recon_cli.checkpoints.programs.loading import check_consent

    (file,) = origin.paths
    check_consent(file, "torchscript", allow_code=allow_code)
    own = plan.behind(source.prefix)
    # The tensors lie there twice, as PyTorch writes them and as Recon does.
    untied = (tensor for tensor in source.tensors if tensor.key not in source.ties)
    check_room_to_work(2 * sum(tensor.bytes * len(plan.places[tensor.key]) for tensor in untied), path)
    script = BranchedScript(file, own, path.parent)
    origin.check_unchanged()
    # A tensor that is no parameter or buffer goes with its module.
    places = Places(own)
    entries = tuple(
        CarriedEntry(path=name, treatment="branched" if places.of_tasks(name) else "kept") for name in origin.others
    )
    return BranchedContent(path, source, plan, entries, script=script, warnings=tuple(_script_warnings(path, script)))


def _script_warnings(path: Path, script: BranchedScript) -> Iterator[str]:
    for mode, count in (("training", script.training), ("evaluation", script.evaluating)):
        if count:
            yield (
                f"{quoted(path)} keeps {counted(count, 'BatchNorm or dropout operation')} in {mode} mode, whatever "
                "`.train()` and `.eval()` say, because the source does, as traced files do"
            )
    if script.way == "passes":
        yield (
            f"{quoted(path)} runs the whole network once for every task, and moves the running statistics of its "
            f"BatchNorms as often, because {script.reason}"
        )


def _asks_for_script(path: Path) -> bool:
    last, *before = [suffix.lower() for suffix in reversed(path.suffixes)] or [""]
    return last in SCRIPT_SUFFIXES or (last in (".pt", ".pth") and bool(before) and before[0] in SCRIPT_SUFFIXES)


def _check_program(
    path: Path, source: CheckpointSource, wanted: type[CheckpointSource], kind: Program, shard_size: int | None
) -> None:
    """Refuse a name that asks for a program where there is none, or for a divided one."""
    weights_alone = quoted(path.with_suffix(".safetensors"))
    named = f"{quoted(path)} is named like {'an' if kind == 'exported' else 'a'} {PROGRAMS[kind]}"
    if not isinstance(source, wanted):
        raise ReconError(f"{named}, but the source is none, so there is nothing to run", f"name it {weights_alone}")
    if shard_size is not None:
        raise ReconError(
            f"--shard-size divides safetensors, but {named}", f"name it {weights_alone}, or leave --shard-size out"
        )


def _left_out(origin: TorchSource) -> tuple[CarriedEntry, ...]:
    """The entries of a torch file that a file of tensors alone does not hold."""
    weights = origin.weights
    own = {key for key, _ in weights.tensors}
    inside = [(*weights.path, key) for key, _ in weights.items if key not in own]
    paths = [*beside(origin.content.root, weights.path), *inside]
    return tuple(CarriedEntry(path=path_text(path), treatment="left out") for path in paths)
