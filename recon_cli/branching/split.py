"""Splitting a checkpoint: what was asked is decided and checked in full, then the branched file is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from recon_cli.artifacts.digests import PLACEHOLDER
from recon_cli.artifacts.document import STANDARD_STREAM
from recon_cli.artifacts.manifest import Manifest, PlannedOutput, SourceCheckpoint, SplitPlan
from recon_cli.artifacts.publish import check_output, publishing, write_all
from recon_cli.branching.applying import check_content, decide_by_plan
from recon_cli.branching.decision import Decision, decide
from recon_cli.branching.identity import digests_of, identity_of
from recon_cli.branching.records import manifest_of, plan_document
from recon_cli.branching.requests import PlanRequest, SplitRequest
from recon_cli.branching.room import check_room, output_record
from recon_cli.checkpoints.opening import open_checkpoint
from recon_cli.checkpoints.safetensors_writer import Digests, unknown_digests
from recon_cli.checkpoints.tensors import CheckpointSource
from recon_cli.checkpoints.writing import Carried, SafetensorsWriter
from recon_cli.errors import ReconError, quoted

Announce = Callable[[PlannedOutput], None]
"""Told what will be written, before it is."""

_ANY_NAME = Path("branched.safetensors")


@dataclass(frozen=True)
class SplitResult:
    """What a split did, or would do.

    :ivar output: what is written.
    :ivar document: the manifest; in a dry run the plan, or None if that was not asked for.
    """

    decision: Decision
    output: PlannedOutput
    document: Manifest | SplitPlan | None


def manifest_path(branched: Path) -> Path:
    """Where the manifest of a branched checkpoint stands: `out.safetensors` has `out.manifest.json`."""
    return branched.with_name(f"{branched.stem}.manifest.json")


def run_split(
    request: SplitRequest | PlanRequest,
    output: Path | None,
    *,
    dry_run: bool,
    overwrite: bool,
    with_plan: bool = True,
    announce: Announce | None = None,
) -> SplitResult:
    """Plan a split, or carry it out.

    :param with_plan: whether a dry run makes the document, for which it reads the whole checkpoint once.
    :raises ReconError: if it is to be carried out and there is no output.
    """
    if dry_run:
        return plan_split(request, output, overwrite=overwrite, with_plan=with_plan)
    if output is None:
        raise ReconError("no output is named", "pass `-o branched.safetensors`, or --dry-run to write nothing")
    return split_checkpoint(request, output, overwrite=overwrite, announce=announce)


def plan_split(
    request: SplitRequest | PlanRequest,
    output: Path | None = None,
    *,
    overwrite: bool = False,
    with_plan: bool = True,
) -> SplitResult:
    """Plan a split without writing anything.

    :param output: where it is to be written, if that is to be checked as well.
    :param with_plan: whether the document is made, for which the whole checkpoint is read once: it holds a digest.
    :raises ReconError: for whatever would make the split fail.
    """
    if output is not None:
        _check_outputs(request, output, overwrite=overwrite)
    with open_checkpoint(request.checkpoint) as source:
        split = _Split(request, source, output)
        document = None
        if with_plan:
            digests = digests_of(source)
            source.check_unchanged()
            found = identity_of(source, request.checkpoint, digests)
            split.check(found)
            document = plan_document(source, found, split.decision, split.planned)
        return SplitResult(split.decision, split.planned, document)


def split_checkpoint(
    request: SplitRequest | PlanRequest, output: Path, *, overwrite: bool = False, announce: Announce | None = None
) -> SplitResult:
    """Write the branched checkpoint and, beside it, its manifest.

    Tensors of layers that are not split are copied bit for bit; every copy of a split layer starts equal to it.

    :param output: the branched file, safetensors; the manifest gets the same name with `.manifest.json`.
    :raises ReconError: naming the file, layer, tensor or task that is wrong; nothing is written then.
    """
    beside = _check_outputs(request, output, overwrite=overwrite)
    with open_checkpoint(request.checkpoint) as source:
        split = _Split(request, source, output)
        if announce is not None:
            announce(split.planned)
        with publishing([output, beside], overwrite=overwrite) as (branched, sidecar):
            digests = split.writer.write([branched.descriptor])
            made = split.manifest(digests)
            split.check(made.document.source)
            write_all(sidecar.descriptor, made.text.encode("ascii"), 0)
        return SplitResult(split.decision, split.planned, made.document)


def _check_outputs(request: SplitRequest | PlanRequest, output: Path, *, overwrite: bool) -> Path:
    """Refuse outputs that could not be written, and return the path of the manifest."""
    if output == STANDARD_STREAM:
        raise ReconError("a checkpoint is not written to standard output", "name a file: `-o branched.safetensors`")
    check_output(output, overwrite=overwrite, inputs=request.inputs)
    if output.suffix.lower() in (".pt", ".pth", ".bin", ".ckpt"):
        raise ReconError(
            f"the branched checkpoint is written as safetensors, but {quoted(output)} is named like a torch file",
            f"name it {quoted(output.with_suffix('.safetensors'))}",
        )
    beside = manifest_path(output)
    check_output(beside, overwrite=overwrite, inputs=request.inputs)
    return beside


@dataclass(frozen=True)
class _Made:
    """A manifest, and its text as it stands beside the branched file and inside it."""

    digests: Digests
    document: Manifest
    text: str


class _Split:
    """One split of one open checkpoint, checked in full before anything is written, but for the tensors' values.

    :ivar decision: what is done.
    :ivar planned: what is written; there is room for it.
    :ivar writer: writes the branched file.
    """

    def __init__(self, request: SplitRequest | PlanRequest, source: CheckpointSource, output: Path | None) -> None:
        self._request = request
        self._source = source
        self.decision = decide_by_plan(request, source) if isinstance(request, PlanRequest) else decide(request, source)
        unknown = unknown_digests(source)
        blank = SourceCheckpoint(name=request.checkpoint.name, format=source.FORMAT, digest=PLACEHOLDER)
        self._made = self._make(unknown, blank)
        carried = Carried(Manifest.METADATA_KEY, lambda digests: self.manifest(digests).text)
        self.writer = SafetensorsWriter(output or _ANY_NAME, source, self.decision.plan.places, carried)
        self.planned = output_record(self.writer.bytes(), len(self._made.text), output)
        if output is not None:
            check_room(self.planned, output)

    def check(self, found: SourceCheckpoint) -> None:
        """Refuse values that are not those of the plan which is carried out."""
        if isinstance(self._request, PlanRequest):
            check_content(self._request, found)

    def manifest(self, digests: Digests) -> _Made:
        """What was done. The last one is kept: of a hundred thousand tensors it takes a second to make."""
        if self._made.digests != digests:
            self._made = self._make(digests, identity_of(self._source, self._request.checkpoint, digests))
        return self._made

    def _make(self, digests: Digests, identity: SourceCheckpoint) -> _Made:
        manifest = manifest_of(self._source, identity, digests, self.decision)
        return _Made(digests, manifest, manifest.to_bytes().decode("ascii"))
