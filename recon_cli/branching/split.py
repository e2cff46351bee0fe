"""Splitting a checkpoint: what was asked is planned and checked in full, then the branched file is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recon_cli.artifacts import strict_json
from recon_cli.artifacts.document import STANDARD_STREAM
from recon_cli.artifacts.manifest import Manifest, SplitPlan
from recon_cli.artifacts.publish import check_output, publishing, write_all
from recon_cli.branching.choosing import choose
from recon_cli.branching.matching import check_ranking, check_unbranched, tasks_of
from recon_cli.branching.parameters import ParameterTable
from recon_cli.branching.plan import check_ties, plan_branching
from recon_cli.branching.records import manifest_of, plan_document, selection_record, sizes_of
from recon_cli.branching.requests import SplitRequest
from recon_cli.checkpoints.opening import open_checkpoint
from recon_cli.checkpoints.safetensors_writer import write_safetensors
from recon_cli.checkpoints.tensors import CheckpointSource
from recon_cli.errors import ReconError, quoted


@dataclass(frozen=True)
class SplitResult:
    """What a split did, or would do.

    :ivar document: the manifest, or in a dry run the plan.
    :ivar untouched: layers of the checkpoint that the ranking does not know; they stay as they are.
    :ivar without_conflicts: split layers whose score is 0.
    """

    document: Manifest | SplitPlan
    untouched: tuple[str, ...]
    without_conflicts: tuple[str, ...]


def manifest_path(branched: Path) -> Path:
    """Where the manifest of a branched checkpoint stands: `out.safetensors` has `out.manifest.json`."""
    return branched.with_name(f"{branched.stem}.manifest.json")


def run_split(request: SplitRequest, output: Path | None, *, dry_run: bool, overwrite: bool) -> SplitResult:
    """Plan a split, or carry it out.

    :raises ReconError: if it is to be carried out and there is no output.
    """
    if dry_run:
        if output is not None:
            _check_outputs(request, output, overwrite=overwrite)
        return plan_split(request)
    if output is None:
        raise ReconError("no output is named", "pass `-o branched.safetensors`, or --dry-run to write nothing")
    return split_checkpoint(request, output, overwrite=overwrite)


def plan_split(request: SplitRequest) -> SplitResult:
    """Plan a split without writing anything.

    :raises ReconError: for whatever would make the split fail.
    """
    with open_checkpoint(request.checkpoint) as source:
        split = _Split(request, source)
        return split.result(split.plan_document())


def split_checkpoint(request: SplitRequest, output: Path, *, overwrite: bool = False) -> SplitResult:
    """Write the branched checkpoint and, beside it, its manifest.

    Tensors of layers that are not split are copied bit for bit; every copy of a split layer starts equal to it.

    :param output: the branched file, safetensors; the manifest gets the same name with `.manifest.json`.
    :raises ReconError: naming the file, layer, tensor or task that is wrong; nothing is written then.
    """
    beside = _check_outputs(request, output, overwrite=overwrite)
    with open_checkpoint(request.checkpoint) as source:
        split = _Split(request, source)
        with publishing([output, beside], overwrite=overwrite) as (branched, sidecar):
            digests = write_safetensors(branched.descriptor, source, split.plan.places, split.metadata)
            manifest = split.manifest(digests)
            write_all(sidecar.descriptor, manifest.to_bytes(), 0)
        return split.result(manifest)


def _check_outputs(request: SplitRequest, output: Path, *, overwrite: bool) -> Path:
    """Refuse outputs that could not be written, and return the path of the manifest."""
    if output == STANDARD_STREAM:
        raise ReconError("a checkpoint is not written to standard output", "name a file: `-o branched.safetensors`")
    inputs = [path for path in (request.checkpoint, request.ranking_file) if path is not None]
    check_output(output, overwrite=overwrite, inputs=inputs)
    if output.suffix.lower() in (".pt", ".pth", ".bin", ".ckpt"):
        raise ReconError(
            f"the branched checkpoint is written as safetensors, but {quoted(output)} is named like a torch file",
            f"name it {quoted(output.with_suffix('.safetensors'))}",
        )
    beside = manifest_path(output)
    check_output(beside, overwrite=overwrite, inputs=inputs)
    return beside


class _Split:
    """One split of one open checkpoint, checked in full before anything is written."""

    def __init__(self, request: SplitRequest, source: CheckpointSource) -> None:
        self._request = request
        self._source = source
        ranking = request.ranking
        check_unbranched(source, request.checkpoint)
        tasks = tasks_of(request)
        parameters = ParameterTable(source, ranking)
        self._untouched = check_ranking(ranking, parameters, request.checkpoint) if ranking else ()
        choice = choose(request.selection, ranking, parameters, tasks)
        self.plan = plan_branching(parameters.tensors, choice.layers, tasks)
        check_ties(self.plan, source.ties)
        self._sizes = sizes_of(parameters, self.plan, ranking, choice.wanted_parameters)
        self._selection = selection_record(request.selection, ranking)

    def result(self, document: Manifest | SplitPlan) -> SplitResult:
        """The manifest or plan, and what is worth saying besides."""
        ranking = self._request.ranking
        idle = {layer.name for layer in ranking.layers if layer.score == 0} if ranking else set()
        return SplitResult(
            document=document,
            untouched=self._untouched,
            without_conflicts=tuple(layer.name for layer in self.plan.layers if layer.name in idle),
        )

    def plan_document(self) -> SplitPlan:
        """What would be done."""
        return plan_document(self._source, self.plan, self._sizes, self._selection)

    def manifest(self, digests: Mapping[str, str]) -> Manifest:
        """What was done."""
        name = self._request.checkpoint.name
        return manifest_of(self._source, name, digests, self.plan, self._sizes, self._selection)

    def metadata(self, digests: Mapping[str, str]) -> dict[str, str]:
        """What the branched file carries besides its tensors."""
        manifest = strict_json.encode(self.manifest(digests).to_json(), indent=None).decode("ascii").rstrip()
        return {"format": "pt", **self._source.metadata, Manifest.METADATA_KEY: manifest}
