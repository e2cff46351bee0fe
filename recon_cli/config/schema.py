"""The typed form of `recon.yaml`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from recon_cli.artifacts.digests import digest_bytes
from recon_cli.artifacts.method import JOINT, Method, describe
from recon_cli.artifacts.sharing import AskedSharing
from recon_cli.errors import counted, listed, number
from recon_cli.layers.names import Granularity
from recon_cli.sizes import parse_bytes
from recon_cli.tasks import check_task_name

DEFAULT_SAMPLES = 1500
"""The standard error of a rate is at most 1.3% then."""

LOSS = "loss"
"""What results call a task's loss, beside its metrics."""

DEFAULT_EPOCHS = 10

DEFAULT_SEVERITIES = (0.0, -0.01, -0.02, -0.03, -0.04, -0.05, -0.1, -0.15, -0.2)


class Section(BaseModel):
    """A part of a config: immutable, and nothing in it that is not named here."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _check_target(value: object) -> object:
    if isinstance(value, str) and not _is_target(value):
        raise ValueError(f"{value!r} is not of the form package.module:callable")
    return value


def _is_target(text: str) -> bool:
    module, colon, name = text.partition(":")
    parts = [*module.split("."), *name.split(".")]
    return bool(colon) and all(part.isidentifier() for part in parts)


Target = Annotated[str, BeforeValidator(_check_target)]
"""`package.module:callable`, looked up from the config's folder first."""


class Call(Section):
    """A callable and the keyword arguments that it is called with."""

    target: Target
    kwargs: dict[str, Any] = {}


class ModelSection(Section):
    """The network, and the weights that it starts from; files are relative to the config.

    Exactly one of the three is given: a callable that returns an `nn.Module`, a TorchScript file, or a file that
    `torch.export.save` wrote.
    """

    target: Target | None = None
    kwargs: dict[str, Any] = {}
    torchscript: str | None = None
    exported: str | None = None
    checkpoint: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> ModelSection:
        named = [name for name in ("target", "torchscript", "exported") if getattr(self, name) is not None]
        if not named:
            raise ValueError("it names no network; give one of `target`, `torchscript` and `exported`")
        if len(named) > 1:
            raise ValueError(f"it names more than one network: {listed(named)}; keep one")
        if self.target is None and self.kwargs:
            raise ValueError(f"`kwargs` are the arguments of a `target`; a file under {listed(named)} takes none")
        return self


def _named_in(library: str) -> BeforeValidator:
    """Accepts a name in a library, or a target."""

    def check(value: object) -> object:
        if isinstance(value, str) and not (value.isidentifier() or _is_target(value)):
            raise ValueError(f"{value!r} is neither a name in {library} nor of the form package.module:callable")
        return value

    return BeforeValidator(check)


class LossSection(Section):
    """A loss: a function of `torch.nn.functional` by its name, or `package.module:function`."""

    target: Annotated[str, _named_in("torch.nn.functional")]
    kwargs: dict[str, Any] = {}


def _check_label(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError(f"{value!r} is neither a key nor a position among the batch's targets")
    return value


def _by_name(value: object) -> object:
    return {"target": value} if isinstance(value, str) else value


class MetricSection(Section):
    """A metric: one of `docs/metrics.md` by its name, or `package.module:name`."""

    target: Annotated[str, _named_in("docs/metrics.md")]
    kwargs: dict[str, Any] = {}
    name: str | None = None
    better: Literal["higher", "lower"] | None = None

    @property
    def title(self) -> str:
        """What results call it."""
        return self.name or self.target.rpartition(":")[2].rpartition(".")[2]


class TaskSection(Section):
    """A task: its name among the model's outputs, its loss, where a batch holds its label, and its metrics."""

    name: str
    loss: Annotated[LossSection, BeforeValidator(_by_name)]
    label: Annotated[str | int, BeforeValidator(_check_label)]
    partial: bool = False
    metrics: list[Annotated[MetricSection, BeforeValidator(_by_name)]] = []

    @field_validator("name")
    @classmethod
    def _allowed(cls, value: str) -> str:
        return check_task_name(value)

    @field_validator("metrics")
    @classmethod
    def _told_apart(cls, values: list[MetricSection]) -> list[MetricSection]:
        titles = [metric.title for metric in values]
        for title in titles:
            if titles.count(title) > 1 or title == LOSS:
                raise ValueError(f"two metrics are called {title!r}; give one of them a `name`")
        return values


class DataSection(Call):
    """The data: a callable that returns a `Dataset` (batched here) or an iterable of batches (taken as it is)."""

    batch_size: Annotated[int, Field(ge=1)] = 64
    shuffle: bool = True
    drop_last: bool = True
    workers: Annotated[int, Field(ge=0)] = 0
    inputs: str = "inputs"


class ValidationSection(Call):
    """The data that the network is evaluated on: as `data`, but in its own order, and all of it."""

    batch_size: Annotated[int, Field(ge=1)] | None = None
    workers: Annotated[int, Field(ge=0)] = 0
    inputs: str | None = None


class OptimizerSection(Section):
    """The optimizer: a class of `torch.optim` by its name, or `package.module:callable`; and how a step is made."""

    target: Annotated[str, _named_in("torch.optim")]
    kwargs: dict[str, Any] = {}
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    accumulate: Annotated[int, Field(ge=1)] = 1


class SchedulerSection(Section):
    """The learning rate's schedule: a class of `torch.optim.lr_scheduler` by its name, or `package.module:callable`."""

    target: Annotated[str, _named_in("torch.optim.lr_scheduler")]
    kwargs: dict[str, Any] = {}
    per: Literal["epoch", "step"] = "epoch"


def _check_bytes(value: object) -> object:
    if isinstance(value, str):
        parse_bytes(value)
    return value


class UntilStable(Section):
    """Which layers are to settle: the first K by the number of pairs with a cosine below a severity."""

    top_k: Annotated[int, Field(ge=1)]
    severity: Annotated[float, Field(gt=-1, le=0)] = -0.1


class ProfileSection(Section):
    """How long the network trains, on which steps conflicts are measured, at which severities, and on which layers."""

    iterations: Annotated[int, Field(ge=1)] = 300
    samples: Annotated[int, Field(ge=1)] = DEFAULT_SAMPLES
    every: Annotated[int, Field(ge=1)] | None = None
    stages: Annotated[int, Field(ge=1, le=100)] = 4
    severities: Annotated[list[float], Field(min_length=1)] = list(DEFAULT_SEVERITIES)
    include: list[str] = ["*"]
    exclude: list[str] = []
    features: list[str] = []
    halves_every: Annotated[int, Field(ge=1)] | None = None
    until_stable: UntilStable | None = None
    memory_limit: Annotated[str | None, BeforeValidator(_check_bytes)] = None

    @property
    def memory_bytes(self) -> int | None:
        """The memory limit in bytes; None to choose one by what is free."""
        return None if self.memory_limit is None else parse_bytes(self.memory_limit)

    @field_validator("severities")
    @classmethod
    def _in_range(cls, values: list[float]) -> list[float]:
        for value in values:
            if not -1 < value <= 0:
                raise ValueError(f"the severity {number(value)} is not in (-1, 0]")
        # Adding zero turns -0.0, which a file would show, into 0.0.
        return sorted({value + 0.0 for value in values}, reverse=True)

    @model_validator(mode="after")
    def _sampled_one_way(self) -> ProfileSection:
        if self.every is not None and "samples" in self.model_fields_set:
            raise ValueError("`every` and `samples` contradict each other; give one of them")
        return self

    @model_validator(mode="after")
    def _settles_by_what_is_counted(self) -> ProfileSection:
        asked = self.until_stable
        if asked is not None and asked.severity not in self.severities:
            counted_ones = listed([number(severity) for severity in self.severities], len(self.severities))
            raise ValueError(
                f"`until_stable` is by conflicts below {number(asked.severity)}, which are not counted; "
                f"choose one of `severities`: {counted_ones}"
            )
        return self


class ConflictsSection(Section):
    """On which steps of `recon train` conflicts are measured, if on any."""

    samples: Annotated[int, Field(ge=1)] | None = None
    every: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _sampled_one_way(self) -> ConflictsSection:
        if (self.every is None) == (self.samples is None):
            raise ValueError("give one of `every` and `samples`")
        return self


class TrainSection(Section):
    """How long `recon train` trains, when it evaluates, which checkpoint is the best, and what it records."""

    epochs: Annotated[int, Field(ge=1)] | None = None
    iterations: Annotated[int, Field(ge=1)] | None = None
    evaluate_every: Annotated[int, Field(ge=1)] | None = None
    log_every: Annotated[int, Field(ge=1)] = 100
    best: str = LOSS
    conflicts: ConflictsSection | None = None
    trackers: list[Literal["tensorboard", "wandb"]] = []
    sharded: bool = False

    @model_validator(mode="after")
    def _one_length(self) -> TrainSection:
        _check_one_length(self)
        return self


Control = Literal["rsl", "rsp", "first-k", "last-k"]


class SelectSection(Section):
    """Which layers `recon run` splits; the options of `recon split`."""

    top_k: Annotated[int, Field(ge=1)] | None = None
    min_score: float | None = None
    budget: str | None = None
    max_params: str | None = None
    max_groups: Annotated[int, Field(ge=2)] | None = None
    max_cost: str | None = None
    drop: bool = False
    granularity: Granularity | None = None
    batchnorm: AskedSharing | None = None

    @model_validator(mode="after")
    def _one_policy(self) -> SelectSection:
        policies = ("top_k", "min_score", "budget", "max_params")
        if sum(getattr(self, name) is not None for name in policies) != 1:
            raise ValueError("give one of `top_k`, `min_score`, `budget` and `max_params`")
        return self


class RunSection(Section):
    """What `recon run` compares: which layers are split, by which update rules and seeds the networks are trained."""

    severity: Annotated[float, Field(gt=-1, le=0)] = -0.1
    select: SelectSection = SelectSection(top_k=25)
    methods: Annotated[list[Method], Field(min_length=1)] | None = None
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**63)]], Field(min_length=1)] | None = None
    single_task: bool = True
    controls: list[Control] = []
    draws: Annotated[int, Field(ge=1)] = 1
    reinitialise: bool = False
    bound: Annotated[float, Field(gt=-1, le=0)] = -0.01

    @field_validator("methods", "seeds", "controls")
    @classmethod
    def _told_apart(cls, values: list[Any] | None) -> list[Any] | None:
        for place, value in enumerate(values or []):
            if value in (values or [])[:place]:
                raise ValueError(f"{describe(value) if isinstance(value, Method) else value} stands there twice")
        return values

    @model_validator(mode="after")
    def _of_one_size(self) -> RunSection:
        if self.controls and self.select.top_k is None:
            raise ValueError("`controls` split as many layers as `select.top_k` says; give that one")
        return self


class SamplingSection(Section):
    """How BMTAS and LTB draw branchings; what is None is the method's own."""

    temperature_start: Annotated[float, Field(gt=0)] | None = None
    temperature_end: Annotated[float, Field(gt=0)] | None = None
    warm_up: Annotated[float, Field(ge=0, lt=1)] | None = None
    resource_weight: Annotated[float, Field(ge=0)] | None = None


class SearchSection(Section):
    """How long each stage of `recon search` learns, how fast, and the modules at which tasks may part."""

    epochs: Annotated[int, Field(ge=1)] | None = None
    iterations: Annotated[int, Field(ge=1)] | None = None
    alpha_lr: Annotated[float, Field(gt=0)] | None = None
    chain: Annotated[list[str], Field(min_length=1)] | None = None
    sampling: SamplingSection | None = None

    @model_validator(mode="after")
    def _one_length(self) -> SearchSection:
        _check_one_length(self)
        return self

    @field_validator("chain")
    @classmethod
    def _told_apart(cls, values: list[str] | None) -> list[str] | None:
        for place, name in enumerate(values or []):
            if name in (values or [])[:place]:
                raise ValueError(f"the module {name!r} stands there twice")
        return values


def _check_one_length(section: TrainSection | SearchSection) -> None:
    if section.epochs is not None and section.iterations is not None:
        raise ValueError("`epochs` and `iterations` contradict each other; give one of them")


class Config(Section):
    """A whole `recon.yaml`."""

    model: ModelSection
    tasks: list[TaskSection]
    data: DataSection
    validation: ValidationSection | None = None
    optimizer: OptimizerSection
    scheduler: SchedulerSection | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    method: Method = JOINT
    profile: ProfileSection = ProfileSection()
    train: TrainSection = TrainSection()
    run: RunSection = RunSection()
    search: SearchSection = SearchSection()
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    device: Literal["auto", "cuda", "cpu"] = "auto"

    @field_validator("tasks")
    @classmethod
    def _several_tasks(cls, values: list[TaskSection]) -> list[TaskSection]:
        names = [task.name for task in values]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the task {name!r} is named twice")
        if len(names) < 2:
            raise ValueError(f"{counted(len(names), 'task')} named, but conflicts arise between at least two")
        return values

    def chosen_method(self, name: str | None) -> Method:
        """The update rule under a name that overrides the config's, with its defaults if it is another one."""
        return self.method if name in (None, self.method.name) else Method(name=name)

    @property
    def task_names(self) -> tuple[str, ...]:
        """The names of the tasks, in order."""
        return tuple(task.name for task in self.tasks)


class LoadedConfig(Section):
    """A config, and the file that it came from."""

    config: Config
    path: Path
    digest: str

    def digest_of(self, *sections: str, without: Mapping[str, Any] | None = None) -> str:
        """The digest of what some sections say, however they are written.

        :param sections: keys of the config.
        :param without: what is left out of them, as pydantic takes it.
        """
        content = self.config.model_dump(mode="json", include={*sections}, exclude={**(without or {})})
        return digest_bytes(json.dumps(content, sort_keys=True).encode())

    @property
    def folder(self) -> Path:
        """The folder that targets and paths in the config are looked up from."""
        return self.path.parent

    @property
    def network_file(self) -> Path | None:
        """The file that holds the network, if one does."""
        named = self.config.model.torchscript or self.config.model.exported
        return None if named is None else self.folder / named

    @property
    def files(self) -> list[Path]:
        """The config itself and the files that it names."""
        model = self.config.model
        named = (model.torchscript, model.exported, model.checkpoint)
        return [self.path, *(self.folder / name for name in named if name is not None)]
