"""`recon profile` trains as `recon train` does: what both measure is the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.folders import parts

STEPS = 12
SGD = {"target": "SGD", "kwargs": {"lr": 0.5, "momentum": 0.9}}
CASES = {
    "clipped": {"optimizer": {**SGD, "clip_norm": 0.01}},
    "accumulated": {"optimizer": {**SGD, "accumulate": 2}},
    "a schedule per step": {"scheduler": {"target": "StepLR", "kwargs": {"step_size": 3}, "per": "step"}},
    "a schedule per epoch": {"scheduler": {"target": "ExponentialLR", "kwargs": {"gamma": 0.1}}},
    "a schedule that follows the losses": {
        "scheduler": {"target": "ReduceLROnPlateau", "kwargs": {"patience": 0, "threshold": 0.9}}
    },
    "bfloat16": {"precision": "bfloat16"},
    "a rule": {"method": "pcgrad"},
    "a rule that looks at epochs": {"method": "dwa"},
}


@pytest.mark.parametrize("sampled", [{"every": 1}, pytest.param({"samples": 5}, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", CASES)
def test_the_conflicts_of_a_profile_are_those_of_the_training(recon, config, case, sampled):
    length = {
        "profile": {"iterations": STEPS, **sampled},
        "train": {"iterations": STEPS, "conflicts": sampled},
        "model": {"target": "tests.networks:Restless"},
        "validation": None,
    }
    path = config(**parts(**{"optimizer": SGD} | CASES[case] | length))
    recon("train", path, "-o", "out").succeeds()
    recon("profile", path, "-o", "scores.json").succeeds()
    assert Path("scores.json").read_bytes() == Path("out/seed-0/scores.json").read_bytes()
    plain = config("plain.yaml", **parts(optimizer=SGD, **length))
    recon("profile", plain, "-o", "plain.json").succeeds()
    differ = [Path(name).read_text().replace("\n", "").split('"layers"')[1] for name in ("plain.json", "scores.json")]
    assert differ[0] != differ[1]
