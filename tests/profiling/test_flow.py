"""The data flow that a profile records on its way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import recon_cli
from recon_cli.artifacts.dataflow import Dataflow
from recon_cli.errors import ReconError
from tests import networks
from tests.conftest import read_ranking, read_scores
from tests.experiment.programs import WRITERS, write

TASKS = ("left", "right")
IMAGES = torch.rand(8, 1, 5, 5)


def flow_of_network(images: torch.Tensor = IMAGES) -> Dataflow:
    return recon_cli.dataflow_of(networks.two_tasks(), TASKS, images)


def test_scores_and_ranking_hold_the_data_flow_of_the_network(recon, config):
    recon("profile", config(), "-o", "scores.json").succeeds()
    recon("rank", "scores.json", "-o", "ranking.json").succeeds()
    assert read_scores(Path("scores.json")).flow == read_ranking(Path("ranking.json")).flow == flow_of_network()


@pytest.mark.parametrize("how", WRITERS)
def test_it_is_that_of_the_network_whatever_file_it_comes_from(recon, config, tmp_path, how):
    source = write(how, networks.two_tasks().train(), (IMAGES,), tmp_path)
    consent = f"--allow-{next(iter(source))}"
    recon("profile", config(model=source), "-o", "scores.json", consent).succeeds()
    found, expected = read_scores(Path("scores.json")).flow, flow_of_network()
    assert found is not None and sum(each.flops for each in found.operations) == sum(
        each.flops for each in expected.operations
    )
    assert [each.tasks for each in found.operations if each.flops] == [
        each.tasks for each in expected.operations if each.flops
    ]


RESTLESS = """
import random
import numpy
import torch
from torch import nn
from tests.networks import TwoTasks

class Restless(TwoTasks):
    def __init__(self):
        super().__init__()
        self.register_buffer("average", torch.zeros(6))
        self.calls = 0
        self.seen = []

    def forward(self, x):
        x.mul_(1 + random.random() + numpy.random.rand())
        self.calls += 1
        self.seen.append(self.calls)
        h = self.body(torch.relu(self.norm(self.conv(x))).mean(dim=(2, 3)))
        self.average = 0.9 * self.average + 0.1 * h.detach().mean(0)
        h = nn.functional.dropout((h - self.average) * self.calls * len(self.seen), 0.5)
        return {task: head(h) for task, head in self.heads.items()}

def opaque():
    class Opaque(Restless):
        def forward(self, x):
            return super().forward(x.to_mkldnn().to_dense())
    return Opaque()
"""


def test_a_profile_measures_what_it_had_measured_without(recon, config, tmp_path, monkeypatch):
    (tmp_path / "restless.py").write_text(RESTLESS)
    path = config(model={"target": "restless:Restless"})
    recon("profile", path, "-o", "with.json").succeeds()

    def refuse(*_):
        raise ReconError("not today")

    monkeypatch.setattr("recon_cli.experiment.flow.record", refuse)
    result = recon("profile", path, "-o", "without.json").succeeds()
    assert result.err.count("not be known what splits cost in operations: not today") == 1
    found, expected = (json.loads(Path(f"{name}.json").read_text()) for name in ("with", "without"))
    assert found.pop("flow") is not None and expected.pop("flow") is None
    assert found == expected


def test_a_network_that_cannot_be_followed_is_profiled_all_the_same(recon, config, tmp_path):
    (tmp_path / "restless.py").write_text(RESTLESS)
    result = recon("profile", config(model={"target": "restless:opaque"}), "-o", "s.json").succeeds()
    assert result.err.count("warning: ") == 1 and "torch._mkldnn" in result.err
    scores = read_scores(Path("s.json"))
    assert scores.flow is None and scores.iterations == 6


def test_files_from_before_are_read(recon, scores):
    content = json.loads(scores.read_text())
    del content["flow"]
    Path("old.json").write_text(json.dumps(content))
    recon("rank", "old.json", "-S", "0", "-o", "ranking.json").succeeds()
    content = json.loads(Path("ranking.json").read_text())
    del content["flow"]
    Path("ranking.json").write_text(json.dumps(content))
    assert read_scores(Path("old.json")).flow is None and read_ranking(Path("ranking.json")).flow is None


def test_a_data_flow_of_other_tasks_is_refused(recon, scores):
    content = json.loads(scores.read_text())
    content["flow"]["tasks"] = ["right", "left"]
    Path("other.json").write_text(json.dumps(content))
    recon("rank", "other.json").refuses("other tasks")


def test_a_loop_of_ones_own_hands_it_over():
    model = networks.two_tasks()
    flow = recon_cli.dataflow_of(model, TASKS, IMAGES)
    profiler = recon_cli.ConflictProfiler(model, TASKS, every=1, flow=flow)
    outputs = model(IMAGES)
    profiler.backward({task: value.square().mean() for task, value in outputs.items()})
    assert profiler.scores().flow == flow
    with pytest.raises(ReconError, match="data flow is of the tasks"):
        recon_cli.ConflictProfiler(model, ("left", "middle"), flow=flow)
