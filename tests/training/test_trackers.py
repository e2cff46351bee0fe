"""What the log of a training has, its trackers show as well: once, whatever stops it, and without changing it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import torch

from recon_cli.runs.keeping import StateKeeper
from recon_cli.updating.training import Training
from tests.profiling.test_torchrun import finish

STEPS, PER_EPOCH = 15, 5


def parts(*trackers: str, **train: object) -> dict[str, object]:
    """The parts of a config: three epochs of five steps, each evaluated, and a line every second step."""
    return {
        "validation": {"target": "tests.networks:two_task_data", "kwargs": {"size": 16}},
        "train": {"epochs": STEPS // PER_EPOCH, "log_every": 2, "trackers": list(trackers), **train},
    }


class DiedError(Exception):
    """Stands for the death of a process."""


@pytest.fixture
def stop(monkeypatch):
    """Stop training behind some steps, each in a process of its own: by a signal, or by its death."""

    def at(steps: list[int], kind: type[BaseException] | int = signal.SIGINT) -> None:
        left = list(steps)
        advance = Training.advance

        def stopping(training: Training) -> None:
            if left and isinstance(kind, type) and training.step == left[0]:
                left.pop(0)
                raise kind
            advance(training)
            if left and isinstance(kind, int) and training.step == left[0]:
                left.pop(0)
                os.kill(os.getpid(), kind)

        monkeypatch.setattr(Training, "advance", stopping)

    return at


@pytest.fixture
def save(monkeypatch):
    """Let states be saved behind the steps of the first process that are named, and never else by the clock."""

    def at(*calls: int) -> None:
        times = iter(range(1, 10**6))
        monkeypatch.setattr(StateKeeper, "is_due", property(lambda _: next(times) in calls))

    return at


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def expected(lines) -> list[tuple[str, int, float]]:
    """Name, step and value of everything that a log holds, written out by hand."""
    found = []
    for line in lines:
        step, event = line["step"], line["event"]
        found.append((f"{event}/epoch", step, line["epoch"]))
        if event == "evaluation":
            found.append(("evaluation/best", step, float(line["best"])))
            for task, figures in line["figures"].items():
                found += [(f"evaluation/figures/{task}/{name}", step, value) for name, value in figures.items()]
        else:
            found += [(f"{event}/losses/{task}", step, value) for task, value in line["losses"].items()]
            found.append((f"{event}/rates/0", step, line["rates"][0]))
    return sorted(found)


def scalars_in(folder: Path) -> list[tuple[str, int, float]]:
    """What TensorBoard itself makes of a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return sorted((tag, each.step, each.value) for tag in events.Tags()["scalars"] for each in events.Scalars(tag))


def close_to(values):
    return [(name, step, pytest.approx(value, rel=1e-6)) for name, step, value in values]


class TestTensorBoard:
    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("tensorboard")

    def test_shows_what_the_log_has(self, recon, config):
        metrics = [{"name": task, "loss": "cross_entropy", "label": task, "metrics": ["accuracy"]} for task in
                   ("left", "right")]  # fmt: skip
        recon("train", config(tasks=metrics, **parts("tensorboard")), "-o", "out").succeeds()
        seed = Path("out/seed-0")
        lines = lines_of(seed / "log.jsonl")
        assert Counter(line["event"] for line in lines) == {"steps": 7, "epoch": 3, "evaluation": 3}
        found = scalars_in(seed)
        assert found == close_to(expected(lines))
        assert ("evaluation/figures/left/accuracy", STEPS) in {(name, step) for name, step, _ in found}

    @pytest.mark.parametrize("at", [1, 4, 5, 6, 10, 13])
    def test_has_every_step_once_after_a_training_was_resumed(self, recon, config, stop, at):
        path = config(**parts("tensorboard"))
        stop([at])
        assert recon("train", path, "-o", "out").code == 130
        recon("train", path, "-o", "out", "--resume").succeeds()
        assert scalars_in(Path("out/seed-0")) == close_to(expected(lines_of(Path("out/seed-0/log.jsonl"))))

    @pytest.mark.parametrize("saved", [3, PER_EPOCH, 6, 7])
    @pytest.mark.parametrize("died", [[12], [12, 8]])
    def test_also_if_it_came_further_than_its_last_state(self, recon, config, save, stop, saved, died):
        path = config(**parts("tensorboard"))
        save(saved)
        stop(died, DiedError)
        for _ in died:
            assert recon("train", path, "-o", "out", "--resume").code == 2
        resumed = recon("train", path, "-o", "out", "--resume").succeeds()
        assert "going on after step" in resumed.err
        assert scalars_in(Path("out/seed-0")) == close_to(expected(lines_of(Path("out/seed-0/log.jsonl"))))

    def test_an_event_file_of_recons_own_goes_with_the_training_that_it_is_of(self, recon, config):
        path = config(**parts("tensorboard"))
        recon("train", path, "-o", "out").succeeds()
        seed = Path("out/seed-0")
        foreign = seed / "events.out.tfevents.1.host.2.0"
        foreign.write_bytes(b"")
        (first,) = seed.glob("events*.recon")
        recon("train", path, "-o", "out", "--force").succeeds()
        (second,) = seed.glob("events*.recon")
        assert first != second
        assert foreign.exists()

    @pytest.mark.slow
    def test_only_the_first_of_several_ranks_writes(self, config, tmp_path):
        path = config(model={"target": "tests.networks:without_norm"}, **parts("tensorboard"))
        command = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
        process = subprocess.Popen(
            [sys.executable, *command, "-m", "recon_cli", "train", str(path), "-o", "out"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "GLOO_SOCKET_IFNAME": "lo"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        code, _, err = finish(process)
        assert code == 0, err
        seed = tmp_path / "out" / "seed-0"
        assert len(list(seed.glob("events*"))) == 1
        assert scalars_in(seed) == close_to(expected(lines_of(seed / "log.jsonl")))


class Runs(ModuleType):
    """Stands in for Weights & Biases: keeps what it is told, by run."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.begun: list[dict[str, object]] = []
        self.rows: dict[str, list[dict[str, float]]] = {}
        self.ended: list[int] = []
        self.metrics: set[tuple[str, str]] = set()

    def init(self, **arguments):
        # It might draw random numbers.
        random.random()
        torch.rand(3)
        self.begun.append(arguments)
        return Run(self, self.rows.setdefault(arguments["id"], []))


class Run:
    def __init__(self, runs: Runs, rows: list[dict[str, float]]) -> None:
        self.runs = runs
        self.rows = rows

    def define_metric(self, name: str, *, step_metric: str) -> None:
        self.runs.metrics.add((name, step_metric))

    def log(self, row: dict[str, float]) -> None:
        self.rows.append(row)

    def finish(self, *, exit_code: int) -> None:
        self.runs.ended.append(exit_code)


@pytest.fixture
def runs(monkeypatch) -> Runs:
    runs = Runs()
    monkeypatch.setitem(sys.modules, "wandb", runs)
    return runs


def shown(rows) -> list[tuple[str, int, float]]:
    return sorted((name, row["step"], value) for row in rows for name, value in row.items() if name != "step")


class TestWeightsAndBiases:
    def test_shows_what_the_log_has(self, recon, config, runs):
        recon("train", config(**parts("wandb")), "-o", "out", "--seeds", "0,1").succeeds()
        assert [begun["name"] for begun in runs.begun] == ["out/seed-0", "out/seed-1"]
        assert len(runs.rows) == 2
        for seed, rows in enumerate(runs.rows.values()):
            assert shown(rows) == expected(lines_of(Path(f"out/seed-{seed}/log.jsonl")))
        assert runs.metrics == {("*", "step")}
        assert runs.ended == [0, 0]

    @pytest.mark.parametrize("at", [4, 5, 6])
    def test_the_same_run_goes_on_after_a_training_was_resumed(self, recon, config, runs, stop, at):
        path = config(**parts("wandb"))
        stop([at])
        assert recon("train", path, "-o", "out").code == 130
        recon("train", path, "-o", "out", "--resume").succeeds()
        (rows,) = runs.rows.values()
        assert [begun["resume"] for begun in runs.begun] == ["allow", "allow"]
        assert runs.ended == [1, 0]
        assert shown(rows) == expected(lines_of(Path("out/seed-0/log.jsonl")))

    @pytest.mark.parametrize("saved", [3, PER_EPOCH, 6])
    @pytest.mark.parametrize("died", [[12], [12, 8], [12, 8, 11]])
    def test_also_if_it_came_further_than_its_last_state(self, recon, config, runs, save, stop, saved, died):
        path = config(**parts("wandb"))
        save(saved)
        stop(died, DiedError)
        for _ in died:
            assert recon("train", path, "-o", "out", "--resume").code == 2
        recon("train", path, "-o", "out", "--resume").succeeds()
        (rows,) = runs.rows.values()
        assert shown(rows) == expected(lines_of(Path("out/seed-0/log.jsonl")))

    def test_a_training_that_is_replaced_is_another_run(self, recon, config, runs):
        path = config(**parts("wandb"))
        recon("train", path, "-o", "out").succeeds()
        recon("train", path, "-o", "out", "--force").succeeds()
        assert len(runs.rows) == 2

    @pytest.mark.parametrize("what", ["init", "log", "finish"])
    def test_a_failure_is_told_once_and_ends_nothing(self, recon, config, runs, monkeypatch, what):
        pytest.importorskip("tensorboard")
        calls = []

        def failing(*arguments, **settings):
            calls.append(what)
            raise ConnectionError("nobody answers")

        monkeypatch.setattr(runs if what == "init" else Run, what, failing)
        done = recon("train", config(**parts("wandb", "tensorboard")), "-o", "out").succeeds()
        assert done.err.count("nobody answers") == 1
        assert "`wandb` failed" in done.err
        assert len(calls) == 1
        lines = lines_of(Path("out/seed-0/log.jsonl"))
        assert len(lines) == 13
        assert scalars_in(Path("out/seed-0")) == close_to(expected(lines))


def test_trackers_change_nothing_of_a_training(recon, config, runs):
    data = {"target": "tests.networks:Augmented", "batch_size": 8}
    recon("train", config(data=data, **parts()), "-o", "plain").succeeds()
    recon("train", config(data=data, **parts("wandb")), "-o", "tracked").succeeds()
    for name in ("log.jsonl", "last.safetensors", "best.safetensors"):
        assert Path("plain/seed-0", name).read_bytes() == Path("tracked/seed-0", name).read_bytes()


@pytest.mark.parametrize(
    ("tracker", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb"), ("wandb", "a folder")]
)
def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_replaced(
    recon, config, monkeypatch, tracker, module
):
    recon("train", config(**parts()), "-o", "out").succeeds()
    before = Path("out/results.json").read_bytes()
    if module == "a folder":
        # Such as one that was written by it.
        monkeypatch.setitem(sys.modules, "wandb", ModuleType("wandb"))
    else:
        monkeypatch.setitem(sys.modules, module, None)
    refused = recon("train", config(**parts(tracker)), "-o", "out", "--force")
    refused.refuses(f"`{tracker}`", f"pip install 'recon_cli[{tracker}]'")
    assert Path("out/results.json").read_bytes() == before


def test_none_is_imported_where_none_is_asked_for(config, tmp_path):
    code = (
        "import sys; from recon_cli.cli.app import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "assert not {'wandb', 'tensorboard', 'torch.utils.tensorboard'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code, "train", str(config(**parts())), "-o", "out", "-q"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        check=True,
    )
