"""The two trainings that the benchmark compares are the same training."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
import torch

from benchmarks import train as benchmark
from benchmarks.train import CASES, WARM_UP, Figures, a_training
from recon_cli.checkpoints.state_dict import load_into

SMALL = replace(CASES["small ResNet, batch of 64"], batch_size=4)


@pytest.mark.parametrize("case", [SMALL, replace(SMALL, split="layer3.0.conv1")], ids=["whole", "branched"])
def test_both_make_the_same_steps(tmp_path, case):
    watch = a_training(case, case.manifest(), 4, tmp_path)
    assert len(watch.ours) == len(watch.plain) == 4
    assert all(seconds > 0 for seconds in watch.ours + watch.plain)
    plain = watch.loop.model
    expected = {name: value.clone() for name, value in plain.state_dict().items()}
    load_into(plain, tmp_path / "out" / "seed-0" / "last.safetensors")
    torch.manual_seed(0)
    begun = case.make().state_dict()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(value, expected[name])
        assert name not in begun or not value.is_floating_point() or not torch.equal(value, begun[name])


def test_the_figures_are_those_of_all_rounds(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "CASES", {"tiny": SMALL})
    path = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["train", "--rounds", "2", "--steps", "3", "--json", str(path)])
    benchmark.main()
    (found,) = json.loads(path.read_text())["cases"]
    assert len(found["ratios"]) == 2
    assert found["plain_ms"] > 0
    assert capsys.readouterr().out.splitlines()[1] == Figures(**found).line()


def test_the_steps_that_warm_up_are_left_out(monkeypatch):
    def measured(case, manifest, steps, folder):
        watch = benchmark.TakingTurns(case, manifest)
        # Twice as long as a plain step, but for the first ones.
        watch.ours, watch.plain = [9.0] * WARM_UP + [0.5] * (steps - WARM_UP), [0.25] * steps
        return watch

    monkeypatch.setattr(benchmark, "a_training", measured)
    found = benchmark.measure("MLP, batch of 1024", 2, 5)
    assert found == Figures("MLP, batch of 1024", 250.0, [2.0, 2.0], 2.0, 250000.0)
    assert max(map(len, found.line().splitlines())) <= 120
