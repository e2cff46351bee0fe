"""Splitting a checkpoint: what was asked is decided and checked in full, then the branched file is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recon_cli.artifacts.digests import PLACEHOLDER
from recon_cli.artifacts.document import STANDARD_STREAM
from recon_cli.artifacts.manifest import (
    BranchedProgram,
    CarriedEntry,
    Manifest,
    PlannedOutput,
    SourceCheckpoint,
    SplitPlan,
)
from recon_cli.artifacts.publish import check_output, publishing, write_all
from recon_cli.branching.applying import check_content, decide_by_plan
from recon_cli.branching.bare import open_as_recorded, open_bare
from recon_cli.branching.content import branched_content
from recon_cli.branching.decision import Decision, decide
from recon_cli.branching.flows import FlowSource, SourceProgram
from recon_cli.branching.identity import described, identity_of
from recon_cli.branching.records import manifest_fields, plan_document
from recon_cli.branching.requests import PlanRequest, SplitRequest
from recon_cli.branching.room import check_room, output_record
from recon_cli.checkpoints.prefixes import Unprefixed
from recon_cli.checkpoints.safetensors_writer import Digests, unknown_digests
from recon_cli.checkpoints.streaming import Advance, digests_of
from recon_cli.checkpoints.writing import Carried
from recon_cli.errors import ReconError

Announce = Callable[["SplitResult"], None]
"""Told what will be done, before it is."""

_ANY_NAME = Path("branched.safetensors")


@dataclass(frozen=True)
class SplitResult:
    """What a split did, or would do.

    :ivar output: what is written.
    :ivar document: the manifest; in a dry run the plan, or None if that was not asked for.
    :ivar entries: what becomes of what lies beside the weights.
    :ivar key: where the weights lie in the source, if it holds more.
    :ivar cost_unknown: why it is not known what the split costs in operations.
    :ivar warnings: what is probably not as its user wants it, as sentences.
    :ivar program: how the branched program computes; None if it is a file of weights.
    """

    decision: Decision
    output: PlannedOutput
    document: Manifest | SplitPlan | None
    entries: tuple[CarriedEntry, ...]
    key: str | None
    cost_unknown: str | None = None
    warnings: tuple[str, ...] = ()
    program: BranchedProgram | None = None


def manifest_path(branched: Path) -> Path:
    """Where the manifest of a branched checkpoint stands: `out.safetensors` has `out.manifest.json`."""
    return branched.with_name(f"{branched.stem}.manifest.json")


def run_split(
    request: SplitRequest | PlanRequest,
    output: Path | None,
    *,
    dry_run: bool,
    overwrite: bool,
    shard_size: int | None = None,
    with_plan: bool = True,
    announce: Announce | None = None,
    advance: Advance | None = None,
) -> SplitResult:
    """Plan a split, or carry it out.

    :param shard_size: the bytes of tensors in one file, if the branched checkpoint is to be divided.
    :param with_plan: whether a dry run makes the document, for which it reads the whole checkpoint once.
    :raises ReconError: if it is to be carried out and there is no output.
    """
    if dry_run:
        return plan_split(request, output, overwrite=overwrite, shard_size=shard_size, with_plan=with_plan)
    if output is None:
        raise ReconError("no output is named", "pass `-o branched.safetensors`, or --dry-run to write nothing")
    return split_checkpoint(
        request, output, overwrite=overwrite, shard_size=shard_size, announce=announce, advance=advance
    )


def plan_split(
    request: SplitRequest | PlanRequest,
    output: Path | None = None,
    *,
    overwrite: bool = False,
    shard_size: int | None = None,
    with_plan: bool = True,
) -> SplitResult:
    """Plan a split without writing anything.

    :param output: where it is to be written, if that is to be checked as well.
    :param with_plan: whether the document is made, for which the whole checkpoint is read once: it holds a digest.
    :raises ReconError: for whatever would make the split fail.
    """
    if output is not None:
        _check_outputs(request, output, overwrite=overwrite)
    with _open(request) as source:
        split = _Split(request, source, output, shard_size)
        if output is not None:
            split.check_outputs(overwrite=overwrite)
        document = None
        if with_plan:
            digests = digests_of(source.tensors)
            source.check_unchanged()
            found = identity_of(source, request.checkpoint, digests)
            split.check(found)
            document = plan_document(source, found, split.decision, split.content.entries, split.planned)
        return split.result(document)


def split_checkpoint(
    request: SplitRequest | PlanRequest,
    output: Path,
    *,
    overwrite: bool = False,
    shard_size: int | None = None,
    announce: Announce | None = None,
    advance: Advance | None = None,
) -> SplitResult:
    """Write the branched checkpoint and, beside it, its manifest.

    Tensors of layers that are not split are copied bit for bit; every copy of a split layer starts equal to it.

    :param output: the branched file; the manifest gets the same name with `.manifest.json`. It is safetensors, or a
        torch file if its name ends as those do; then it keeps what else a torch file holds, and what mirrors the
        weights, such as an optimizer's moments, is branched along. It is a program if its name asks for one and the
        checkpoint is one: exported (`.pt2`) or TorchScript (`.ts`, `.ts.pt`, `.torchscript`, `.jit` and the like).
    :param shard_size: the bytes of tensors in one file. A larger checkpoint is divided into several, and an index.
    :param announce: told what will be done; its document is not there yet.
    :param advance: told what has been written.
    :raises ReconError: naming the file, layer, tensor or task that is wrong; nothing is written then.
    """
    beside = _check_outputs(request, output, overwrite=overwrite)
    with _open(request) as source:
        split = _Split(request, source, output, shard_size)
        split.check_outputs(overwrite=overwrite)
        if announce is not None:
            announce(split.result(None))
        with publishing([*split.writer.paths, beside], overwrite=overwrite) as (*branched, sidecar):
            digests = split.writer.write([file.descriptor for file in branched], advance)
            write_all(sidecar.descriptor, split.manifest_text(digests).encode("ascii"), 0)
            manifest = split.manifest()
            split.check(manifest.source)
        return split.result(manifest)


def _open(request: SplitRequest | PlanRequest) -> Unprefixed:
    if isinstance(request, PlanRequest):
        return open_as_recorded(request.checkpoint, request.plan.source)
    return open_bare(request.checkpoint, request.key, request.layers)


def _check_outputs(request: SplitRequest | PlanRequest, output: Path, *, overwrite: bool) -> Path:
    """Refuse outputs that could not be written, and return the path of the manifest."""
    if output == STANDARD_STREAM:
        raise ReconError("a checkpoint is not written to standard output", "name a file: `-o branched.safetensors`")
    check_output(output, overwrite=overwrite, inputs=request.inputs)
    beside = manifest_path(output)
    check_output(beside, overwrite=overwrite, inputs=request.inputs)
    return beside


class _Split:
    """One split of one open checkpoint, checked in full before anything is written, but for the tensors' values.

    :ivar decision: what is done.
    :ivar content: what the branched checkpoint holds.
    :ivar planned: what is written; there is room for it.
    :ivar writer: writes the branched file.
    """

    def __init__(
        self, request: SplitRequest | PlanRequest, source: Unprefixed, output: Path | None, shard_size: int | None
    ) -> None:
        self._request = request
        self._source = source
        program = SourceProgram(source, allow_code=request.allow_code)
        self._flow_missing: str | None = None
        if isinstance(request, PlanRequest):
            self.decision = decide_by_plan(request, source)
        else:
            flow = FlowSource(request.flow, source, program)
            self.decision = decide(request, source, flow)
            self._flow_missing = flow.missing
        path, decision = output or _ANY_NAME, self.decision
        self.content = branched_content(path, source, decision.plan, decision.parameters, shard_size, program)
        unknown = unknown_digests(source)
        self._digests = unknown
        self._fields = self._fields_with(unknown, described(source, request.checkpoint, PLACEHOLDER))
        self._text = Manifest.encode(self._fields).decode("ascii")
        self.writer = self.content.writer(Carried(Manifest.METADATA_KEY, self.manifest_text))
        self.planned = output_record(self.writer.bytes(), len(self._text), output)
        if output is not None:
            check_room(self.planned, output)

    def check_outputs(self, *, overwrite: bool) -> None:
        """Refuse files that could not be written; there may be several."""
        inputs = [*self._request.inputs, *self._source.paths]
        for path in self.writer.paths:
            check_output(path, overwrite=overwrite, inputs=inputs)

    def result(self, document: Manifest | SplitPlan | None) -> SplitResult:
        """What was done, or would be."""
        content = self.content
        return SplitResult(
            self.decision,
            self.planned,
            document,
            content.entries,
            self._source.key,
            self._flow_missing if self.decision.cost is None else None,
            content.warnings,
            content.program,
        )

    def check(self, found: SourceCheckpoint) -> None:
        """Refuse values that are not those of the plan which is carried out."""
        if isinstance(self._request, PlanRequest):
            check_content(self._request, found)

    def manifest_text(self, digests: Digests) -> str:
        """The manifest as it stands beside the branched file and inside it; the last one is kept."""
        if self._digests != digests:
            self._digests = digests
            identity = identity_of(self._source, self._request.checkpoint, digests)
            self._fields = self._fields_with(digests, identity)
            self._text = Manifest.encode(self._fields).decode("ascii")
        return self._text

    def manifest(self) -> Manifest:
        """The last manifest."""
        return Manifest.model_validate(self._fields)

    def _fields_with(self, digests: Digests, identity: SourceCheckpoint) -> dict[str, Any]:
        content = self.content
        return manifest_fields(self._source, identity, digests, self.decision, content.entries, content.program)
