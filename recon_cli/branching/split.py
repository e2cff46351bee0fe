"""Splitting a checkpoint: the plan, its sizes, and the branched file with its manifest."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from recon_cli._version import __version__
from recon_cli.artifacts import strict_json
from recon_cli.artifacts.digests import digest_bytes
from recon_cli.artifacts.document import STANDARD_STREAM
from recon_cli.artifacts.manifest import (
    Manifest,
    PlannedTensor,
    Selection,
    Size,
    Sizes,
    SourceCheckpoint,
    SplitPlan,
    TensorRecord,
)
from recon_cli.artifacts.publish import check_output, publishing, write_all
from recon_cli.artifacts.ranking import RankedLayer, Ranking
from recon_cli.artifacts.scores import UnrankedLayer
from recon_cli.artifacts.versions import Versions
from recon_cli.branching.plan import check_ties, plan_branching, split_per_task
from recon_cli.checkpoints.opening import open_checkpoint
from recon_cli.checkpoints.safetensors_writer import write_safetensors
from recon_cli.checkpoints.tensors import CheckpointSource, TensorInfo
from recon_cli.errors import ReconError, counted, listed, number, quoted
from recon_cli.layers.names import LayerTable, is_parameter, layer_of
from recon_cli.ranking import selection as policies
from recon_cli.ranking.selection import Budget, Cost
from recon_cli.tasks import check_tasks


@dataclass(frozen=True)
class SelectionRequest:
    """How the user chose the layers: exactly one of these is set."""

    top_k: int | None = None
    min_score: float | None = None
    budget: str | None = None
    layers: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.top_k, self.min_score, self.budget, self.layers) if value is not None]
        if len(given) != 1:
            raise ReconError(
                f"{len(given)} ways to choose the layers are given; exactly one is needed",
                "pass one of --top-k, --min-score, --budget and --layers",
            )

    def described(self) -> tuple[Literal["top-k", "min-score", "budget", "layers"], str]:
        """The policy and its argument, as the manifest names them."""
        if self.top_k is not None:
            return "top-k", str(self.top_k)
        if self.min_score is not None:
            return "min-score", number(self.min_score)
        if self.budget is not None:
            return "budget", self.budget
        return "layers", ",".join(self.layers or ())


@dataclass(frozen=True)
class SplitRequest:
    """What `recon split` was asked to do."""

    checkpoint: Path
    selection: SelectionRequest
    ranking: Ranking | None
    tasks: tuple[str, ...] | None
    ranking_file: Path | None = None


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
        self._table = LayerTable.of(tensor.key for tensor in source.tensors)
        self._by_key = {tensor.key: tensor for tensor in source.tensors}
        ranking = request.ranking
        if Manifest.METADATA_KEY in source.metadata:
            raise ReconError(
                f"{quoted(request.checkpoint)} is branched already: it carries a manifest",
                "split the checkpoint that it was made from",
            )
        if ranking is None and request.selection.layers is None:
            raise ReconError(
                "there is no ranking to choose the layers from",
                "pass --ranking, or name the layers with --layers",
            )
        tasks = request.tasks or (ranking.tasks if ranking else None)
        if tasks is None:
            raise ReconError(
                "the tasks are not known: the ranking does not name them" if ranking else "no tasks are named",
                "name them, separated by commas: `--tasks segmentation,depth`",
            )
        tasks = check_tasks(tasks)
        if ranking is not None and ranking.tasks is not None and set(ranking.tasks) == set(tasks):
            # The order is that of the model's outputs, which the profile knows.
            tasks = ranking.tasks
        self._known_parameters = _known_parameters(ranking, self._by_key)
        self._untouched: tuple[str, ...] = ()
        if ranking:
            self._untouched = self._check_ranking(ranking, tasks)
        chosen = self._choose()
        known = {layer.name: layer for layer in ranking.layers} if ranking else {}
        layers = [
            split_per_task(name, known[name].aliases, tasks, known[name].tasks)
            if name in known
            else split_per_task(name, (), tasks)
            for name in chosen
        ]
        self.plan = plan_branching(self._by_key, layers, tasks)
        check_ties(self.plan, source.ties)

    def result(self, document: Manifest | SplitPlan) -> SplitResult:
        """The manifest or plan, and what is worth saying besides."""
        ranking = self._request.ranking
        idle = {layer.name for layer in ranking.layers if layer.score == 0} if ranking else set()
        return SplitResult(
            document=document,
            untouched=self._untouched,
            without_conflicts=tuple(layer.name for layer in self.plan.layers if layer.name in idle),
        )

    def metadata(self, digests: Mapping[str, str]) -> dict[str, str]:
        """What the branched file carries besides its tensors."""
        manifest = strict_json.encode(self.manifest(digests).to_json(), indent=None).decode("ascii").rstrip()
        return {"format": "pt", **self._source.metadata, Manifest.METADATA_KEY: manifest}

    def _check_ranking(self, ranking: Ranking, tasks: Sequence[str]) -> tuple[str, ...]:
        if ranking.tasks is not None and set(ranking.tasks) != set(tasks):
            raise ReconError(
                f"--tasks names {listed(tasks)}, but the ranking is of {listed(ranking.tasks)}",
                "leave --tasks out to take the ranking's",
            )
        checkpoint = quoted(self._request.checkpoint)
        missing = [
            layer.name
            for layer in ranking.layers
            if not any(name in self._table.keys for name in (layer.name, *layer.aliases))
        ]
        if missing:
            raise ReconError(
                f"the checkpoint {checkpoint} lacks {len(missing)} of the ranking's {len(ranking.layers)} layers: "
                f"{listed(missing)}",
                "split a checkpoint of the model that was profiled",
            )
        known = {name for layer in ranking.layers for name in (layer.name, *layer.aliases)}
        for layer in ranking.unranked or ():
            known.update((layer.name, *layer.aliases))
        unknown = tuple(
            name
            for name, keys in self._table.keys.items()
            if name not in known and any(is_parameter(key, self._by_key[key].dtype) for key in keys)
        )
        for ranked in ranking.layers:
            found = _count(self._parameters(self._known_parameters.get(ranked.name, ())))
            if ranked.parameters is not None and found != ranked.size:
                raise ReconError(
                    f"the layer {quoted(ranked.name)} has {found} parameters in {checkpoint}, "
                    f"but {ranked.size} in the ranking",
                    "split a checkpoint of the model that was profiled",
                )
        if unknown and ranking.unranked is not None:
            raise ReconError(
                f"the checkpoint {checkpoint} has {counted(len(unknown), 'layer')} that the profiled model has not: "
                f"{listed(unknown)}",
                "split a checkpoint of the model that was profiled",
            )
        return unknown

    def _choose(self) -> tuple[str, ...]:
        wish, ranking = self._request.selection, self._request.ranking
        if wish.layers is not None:
            names = policies.explicit(wish.layers)
            # Two names of one tied layer are one layer.
            return tuple(dict.fromkeys(self._canonical(name) for name in names))
        assert ranking is not None
        if wish.top_k is not None:
            return policies.top_k(ranking, wish.top_k)
        if wish.min_score is not None:
            return policies.min_score(ranking, wish.min_score)
        assert wish.budget is not None
        tasks = self._request.tasks or ranking.tasks or ()
        costs = {
            layer.name: self._cost((layer.name, *layer.aliases), len(layer.tasks or tasks) - 1)
            for layer in ranking.layers
        }
        model = _count(self._parameters(self._by_key))
        return policies.within_budget(ranking, Budget.parse(wish.budget), costs, model)

    def _canonical(self, name: str) -> str:
        """The ranking's name of a layer that may be given by an alias."""
        for layer in self._request.ranking.layers if self._request.ranking else ():
            if name in layer.aliases:
                return layer.name
        return name

    def _parameters(self, keys: Iterable[str]) -> list[TensorInfo]:
        """The parameters among tensors, a tied one once."""
        return [self._by_key[key] for key in keys if key in self._by_key and self._is_parameter(key)]

    def _is_parameter(self, key: str) -> bool:
        known = self._known_parameters.get(layer_of(key))
        if known is not None:
            return key in known
        return key not in self._source.ties and is_parameter(key, self._by_key[key].dtype)

    def _cost(self, names: Sequence[str], copies: int) -> Cost:
        parameters = self._parameters(key for name in names for key in self._table.keys.get(name, ()))
        return Cost(_count(parameters) * copies, _bytes(parameters) * copies)

    def plan_document(self) -> SplitPlan:
        """What would be done, without what is known only from the tensors' values."""
        return SplitPlan(
            tasks=self.plan.tasks,
            layers=self.plan.layers,
            tensors=tuple(PlannedTensor(**self._fields(tensor)) for tensor in self._source.tensors),
            sizes=self._sizes(),
            selection=self._selection(),
        )

    def manifest(self, digests: Mapping[str, str]) -> Manifest:
        """What was done, with the digest of every tensor."""
        source = self._source
        lines = [f"{t.key}\0{t.dtype}\0{list(t.shape)}\0{digests[t.key]}\n" for t in source.tensors]
        return Manifest(
            tasks=self.plan.tasks,
            batchnorm="shared",
            layers=self.plan.layers,
            tensors=tuple(TensorRecord(**self._fields(t), digest=digests[t.key]) for t in source.tensors),
            sizes=self._sizes(),
            source=SourceCheckpoint(
                name=self._request.checkpoint.name,
                format=source.FORMAT,
                digest=digest_bytes("".join(sorted(lines)).encode()),
            ),
            selection=self._selection(),
            versions=Versions(recon=__version__),
        )

    def _fields(self, tensor: TensorInfo) -> dict[str, Any]:
        copies = self.plan.copies.get(tensor.key)
        return {
            "key": tensor.key,
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "copies": None if copies is None else dict(copies),
        }

    def _selection(self) -> Selection:
        policy, argument = self._request.selection.described()
        ranking = self._request.ranking
        return Selection(
            policy=policy,
            argument=argument,
            ranking_digest=None if ranking is None else digest_bytes(ranking.to_bytes()),
        )

    def _sizes(self) -> Sizes:
        source, plan = self._source, self.plan
        parameters = self._parameters(self._by_key)
        split = self._parameters(plan.copies)
        ranking = self._request.ranking
        shared = None
        if ranking:
            ranked = {name for layer in ranking.layers for name in (layer.name, *layer.aliases)}
            shared = _count(self._parameters(key for key in self._by_key if layer_of(key) in ranked))
        times = {key: len(places) for key, places in plan.places.items()}
        return Sizes(
            before=Size(
                parameters=_count(parameters),
                parameter_bytes=_bytes(parameters),
                tensors=len(source.tensors),
                tensor_bytes=_bytes(source.tensors),
            ),
            after=Size(
                parameters=sum(t.size * times[t.key] for t in parameters),
                parameter_bytes=sum(t.bytes * times[t.key] for t in parameters),
                tensors=sum(times.values()),
                tensor_bytes=sum(t.bytes * times[t.key] for t in source.tensors),
            ),
            split_parameters=_count(split),
            shared_parameters=shared,
        )


def _known_parameters(ranking: Ranking | None, keys: Container[str]) -> dict[str, frozenset[str]]:
    """For each layer whose parameters a ranking names, their names in a checkpoint, a tied one under one of them."""
    known: dict[str, frozenset[str]] = {}
    layers: list[RankedLayer | UnrankedLayer] = [*ranking.layers, *(ranking.unranked or ())] if ranking else []
    for layer in layers:
        if layer.parameters is not None:
            names = (layer.name, *layer.aliases)
            own = {_name_in(keys, parameter, names) for parameter in layer.parameters}
            known.update(dict.fromkeys(names, frozenset(own)))
    return known


def _name_in(keys: Container[str], parameter: str, names: Sequence[str]) -> str:
    """The name under which a checkpoint holds a parameter; it may have kept another one of a tied parameter."""
    rest = parameter[len(layer_of(parameter)) :]
    return next((name for name in (parameter, *(alias + rest for alias in names)) if name in keys), parameter)


def _count(tensors: Iterable[TensorInfo]) -> int:
    return sum(tensor.size for tensor in tensors)


def _bytes(tensors: Iterable[TensorInfo]) -> int:
    return sum(tensor.bytes for tensor in tensors)
