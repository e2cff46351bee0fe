"""Every cosine of a profile: what the file holds, and that rankings from it are those from the scores."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import recon_cli
from recon_cli.profiling import cosine_log
from recon_cli.ranking.rank import rank
from tests import networks
from tests.conftest import read_scores
from tests.profiling.test_partial_labels import LAYERS, parts, reference_cosines
from tests.profiling.test_resume import parts as two_parts

Cosines = recon_cli.Cosines


@pytest.fixture
def written(recon, config):
    """The scores and the cosines of a profile of three tasks, some of which are missing from some batches."""
    recon("profile", config(**parts()), "-o", "s.json", "--save-cosines").succeeds()
    return read_scores(Path("s.json")), Cosines.read("s.cosines.safetensors")


def test_the_cosines_are_those_of_an_independent_computation(written):
    _, cosines = written
    assert (cosines.tasks, cosines.layers) == (("a", "b", "c"), LAYERS)
    assert cosines.cosines.dtype == torch.float64
    assert cosines.steps.tolist() == list(range(7))
    assert cosines.stages.tolist() == [1 + step * 4 // 7 for step in range(7)]
    for step, found in zip(reference_cosines(), cosines.cosines, strict=True):
        for layer, row in zip(LAYERS, found, strict=False):
            expected = torch.tensor([step[layer].get(pair, torch.nan) for pair in ("ab", "ac", "bc")]).double()
            torch.testing.assert_close(row, expected, rtol=0, atol=1e-6, equal_nan=True)
        assert found[-1].isnan().tolist() == found[0].isnan().tolist()


def test_the_file_is_plain_safetensors_with_what_it_says(written):
    with safe_open("s.cosines.safetensors", framework="pt") as file:
        assert file.metadata()["schema"] == "recon.cosines/1"
        assert sorted(file.keys()) == ["cosines", "stages", "steps"]
        assert file.metadata()["scores_digest"] == rank(written[0]).source.scores_digest


def test_rankings_from_cosines_are_those_from_the_scores(recon, config, written):
    scores, cosines = written
    for severity in scores.severities:
        for stage in (None, 1, 2, 3, 4):
            assert rank(scores, severity, stage, cosines) == rank(scores, severity, stage)
            counted = cosines.cosines[:, -1][(cosines.stages == stage) | (stage is None)]
            of_trunk = scores.trunk if stage is None else [scores.trunk[stage - 1]]
            index = scores.severities.index(severity)
            assert int((counted < severity).sum()) == sum(part.conflicts[index] for part in of_trunk)


values = st.one_of(st.floats(-1, 1), st.just(float("nan")), st.just(float("inf")))


@given(st.lists(st.tuples(st.lists(values, min_size=6, max_size=6), st.integers(1, 3))), st.floats(-1, 0))
def test_conflicts_are_the_cosines_strictly_below(rows, severity):
    cosines = Cosines(
        tasks=("a", "b", "c"),
        layers=("one",),
        cosines=torch.tensor([row for row, _ in rows], dtype=torch.float64).reshape(-1, 2, 3),
        steps=torch.arange(len(rows)),
        stages=torch.tensor([stage for _, stage in rows], dtype=torch.int64),
        scores_digest="",
    )
    for stage in (None, 1, 2, 3):
        expected = sum(c < severity for row, own in rows for c in row[:3] if stage in (None, own))
        assert cosines.conflicts("one", severity, stage) == expected


def test_any_severity_can_be_ranked_by(recon, written):
    recon("rank", "s.json", "-S", "-0.123").refuses("no exact count for the severity -0.123")
    ranking = recon("rank", "s.json", "--cosines", "s.cosines.safetensors", "-S", "-0.123", "--json").succeeds()
    scores = {layer["name"]: layer["score"] for layer in ranking.document["layers"]}
    for name in LAYERS:
        assert scores[name] == sum(c < -0.123 for step in reference_cosines() for c in step[name].values())


def test_only_measured_steps_are_held(recon, config):
    recon("profile", config(**parts(every=3)), "-o", "s.json", "--save-cosines").succeeds()
    cosines = Cosines.read("s.cosines.safetensors")
    assert cosines.steps.tolist() == [0, 3, 6]
    assert cosines.stages.tolist() == [1, 2, 4]


def test_gradients_that_are_not_finite_are_marked(recon, config, tmp_path):
    (tmp_path / "large.py").write_text(
        "import torch\nfrom torch.nn import functional as F\n"
        "class Spike(torch.autograd.Function):\n"
        "    @staticmethod\n    def forward(ctx, x): return x.clone()\n"
        "    @staticmethod\n    def backward(ctx, g): return g * float('inf')\n"
        "def loss(output, target): return F.cross_entropy(Spike.apply(output), target)\n"
    )
    given = parts(present=["abc"])
    given["tasks"][1]["loss"] = "large:loss"
    recon("profile", config(**given), "-o", "s.json", "--save-cosines").succeeds()
    ab, ac, bc = Cosines.read("s.cosines.safetensors").cosines[0, 0].tolist()
    assert (ab, bc) == (float("inf"), float("inf"))
    assert -1 <= ac <= 1


@pytest.mark.parametrize("at", [1, 3, 4, 8, 11])
def test_an_interrupted_profile_ends_in_the_same_cosines(recon, config, monkeypatch, at):
    monkeypatch.setattr(cosine_log, "BLOCK", 4)
    monkeypatch.setattr(networks.signal_loss, "calls", 0)
    path = config(**two_parts(at=at))
    assert recon("profile", path, "-o", "s.json", "--save-cosines").code == 130
    assert Cosines.read("s.run/partial.cosines.safetensors").steps.tolist() == list(range(at))
    # A block that was written after the state counts for nothing.
    later = Path(f"s.run/cosines-{at // 4 * 4:09d}.safetensors")
    if later.exists():
        block = load_file(later)
        more = {key: torch.cat([value, torch.full_like(value[:1], 7)])[:4] for key, value in block.items()}
        save_file(more, later)
    recon("profile", path, "-o", "s.json", "--save-cosines", "--resume").succeeds()
    recon("profile", path, "-o", "whole.json", "--save-cosines").succeeds()
    assert Path("s.json").read_bytes() == Path("whole.json").read_bytes()
    one, two = Path("s.cosines.safetensors"), Path("whole.cosines.safetensors")
    assert one.read_bytes() == two.read_bytes()
    assert not Path("s.run").exists()
    assert Cosines.read(one).cosines.shape == (24, 5, 1)


def test_a_run_without_its_cosines_cannot_go_on(recon, config, monkeypatch):
    monkeypatch.setattr(networks.signal_loss, "calls", 0)
    path = config(**two_parts(at=3))
    assert recon("profile", path, "-o", "s.json", "--save-cosines").code == 130
    recon("profile", path, "-o", "s.json", "--resume").refuses("cosines: True there, False here")
    Path("s.run/cosines-000000000.safetensors").unlink()
    recon("profile", path, "-o", "s.json", "--resume", "--save-cosines").refuses("are missing", "--force")


def test_a_failed_profile_keeps_the_cosines_that_belong_to_its_scores(recon, config, monkeypatch):
    monkeypatch.setattr(networks.explode_loss, "calls", 0)
    path = config(**two_parts(loss="tests.networks:explode_loss"))
    recon("profile", path, "-o", "s.json", "--save-cosines").refuses("became inf")
    scores, cosines = read_scores(Path("s.partial.json")), Cosines.read("s.partial.cosines.safetensors")
    cosines.check_of(scores)
    assert len(cosines.steps) == 2
    assert not Path("s.run").exists()


def test_of_scores_and_cosines_neither_appears_alone(recon, config, tmp_path):
    Path("s.cosines.safetensors").write_text("mine")
    given = parts()
    path = config(**{**given, "model": {"target": "tests.networks:failing"}})
    recon("profile", path, "-o", "s.json", "--save-cosines").refuses("s.cosines.safetensors", "exists already")
    Path("s.cosines.safetensors").unlink()
    (tmp_path / "taking_cosines.py").write_text(
        "import pathlib\nfrom tests.networks import ThreeTasks\n"
        "def make():\n  pathlib.Path('s.cosines.safetensors').write_text('mine'); return ThreeTasks('none')\n"
    )
    given["model"] = {"target": "taking_cosines:make"}
    recon("profile", config(**given), "-o", "s.json", "--save-cosines").refuses("exists already", "s.partial.json")
    assert not Path("s.json").exists()
    assert Path("s.cosines.safetensors").read_text() == "mine"
    assert Path("s.partial.cosines.safetensors").exists()
    recon("profile", config(**parts()), "-o", "-", "--save-cosines").refuses("`-o scores.json`")


def test_cosines_of_another_kind_are_refused(recon, config, written):
    recon("profile", config(**parts()), "-o", "t.json", "--save-cosines", "--seed", 3).succeeds()
    recon("rank", "s.json", "--cosines", "t.cosines.safetensors").refuses("not those that the scores were counted from")
    recon("rank", "s.json", "--cosines", "none.safetensors").refuses("there is no file `none.safetensors`")
    recon("rank", "s.json", "--cosines", "s.json").refuses("`s.json`")
    recon("rank", "s.json", "--cosines", ".").refuses("cannot read `.`")
    save_file({"cosines": torch.zeros(1)}, "x.safetensors")
    recon("rank", "s.json", "--cosines", "x.safetensors").refuses("holds no cosines of a profile")
    good = load_file("s.cosines.safetensors")
    metadata = Cosines.metadata(written[0])
    for tensors, changes, words in (
        ({**good, "steps": good["steps"][:2]}, {}, "are not those of 3 tasks and 2 layers"),
        (good, {"tasks": "[1]"}, "`tasks` in `x.safetensors` is no list of names"),
        (good, {"layers": "junk"}, "`layers` in `x.safetensors`"),
        (good, {"scores_digest": ""}, "not those that the scores were counted from"),
    ):
        save_file(tensors, "x.safetensors", {**metadata, **changes})
        recon("rank", "s.json", "--cosines", "x.safetensors").refuses(words)
    Path("plain.json").write_text('{"a": 1}')
    recon("rank", "plain.json", "--cosines", "s.cosines.safetensors").refuses("leave --severity, --stage, --cosines")


def test_a_killed_run_keeps_its_blocks(recon, config, tmp_path):
    path = config(**two_parts(at=14, number=signal.SIGKILL))
    code = (
        "from recon_cli.profiling import cosine_log; cosine_log.BLOCK = 4\n"
        "from recon_cli.cli.app import main; raise SystemExit(main())"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, "profile", str(path), "-o", "s.json", "--save-cosines"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    blocks = sorted(Path("s.run").glob("cosines-*.safetensors"))
    assert [load_file(block)["steps"].tolist() for block in blocks] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
