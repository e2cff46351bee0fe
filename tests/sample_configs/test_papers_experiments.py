"""The sample configs of the paper's experiments, from the first training to that of the split network.

They run as they ship, but on small data in folders of the same layout, with networks that are narrower.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from recon_cli.config.loading import load_config
from recon_cli.zoo.resnet import CELEBA_ATTRIBUTES
from tests.datasets import celeba_folder, mtan_folder, pascal_context_folder

SAMPLES = Path(__file__).parents[2] / "sample_configs"

CLASSES = {"loss", "miou", "pixel_accuracy"}
DEPTH = {"loss", "abs_error", "rel_error"}
ANGLES = {"loss", "angle_mean", "angle_median", "within_11.25", "within_22.5", "within_30"}


@dataclass(frozen=True)
class Experiment:
    """One of the paper's experiments.

    :ivar write_folder: writes its data.
    :ivar narrow: arguments of the network.
    :ivar batch_size: two at least are needed, of the images that are there.
    :ivar figures: of each task.
    :ivar setting: what the paper's Appendix B says: K, S, epochs, and the learning rate.
    :ivar unlabelled: the figures of which the validation data has no label.
    """

    write_folder: Callable[[Path], None]
    narrow: Mapping[str, Any]
    batch_size: int
    figures: Mapping[str, set[str]]
    setting: tuple[int, float, int, float]
    unlabelled: frozenset[tuple[str, str]] = frozenset()


EXPERIMENTS = {
    "cityscapes_segnet": Experiment(
        mtan_folder.write_folder,
        {"filters": [4, 4, 4]},
        2,
        {"segmentation": CLASSES, "depth": DEPTH},
        (39, 0, 200, 5e-5),
    ),
    "nyuv2_mtan": Experiment(
        mtan_folder.write_folder,
        {"filters": [4, 4, 4]},
        2,
        {"segmentation": CLASSES, "depth": DEPTH, "normals": ANGLES},
        (22, -0.02, 200, 1e-4),
    ),
    "pascal_context_mobilenet": Experiment(
        pascal_context_folder.write_folder,
        {"width": 0.1},
        2,
        {
            "segmentation": {"loss", "miou"},
            "human_parts": {"loss", "miou"},
            "saliency": {"loss", "miou"},
            "normals": {"loss", "angle_mean"},
        },
        (85, -0.02, 130, 1e-4),
        # Nobody is on the image.
        frozenset({("human_parts", "miou")}),
    ),
    "celeba_resnet18": Experiment(
        celeba_folder.write_folder,
        {"width": 4},
        3,
        {attribute: {"loss", "accuracy"} for attribute in CELEBA_ATTRIBUTES},
        (25, -0.05, 5, 5e-5),
    ),
}

each_experiment = pytest.mark.parametrize("name", EXPERIMENTS)


@each_experiment
def test_the_settings_are_those_of_the_papers_appendix(name):
    config = load_config(SAMPLES / f"{name}.yaml").config
    found = (config.run.select.top_k, config.run.severity, config.train.epochs, config.optimizer.kwargs["lr"])
    assert found == EXPERIMENTS[name].setting
    assert config.optimizer.target == "Adam"
    assert config.task_names == tuple(EXPERIMENTS[name].figures)


@pytest.mark.parametrize(
    "name",
    [
        "cityscapes_segnet",
        pytest.param("nyuv2_mtan", marks=pytest.mark.slow),
        pytest.param("pascal_context_mobilenet", marks=pytest.mark.slow),
        "celeba_resnet18",
    ],
)
def test_the_experiment_runs_from_its_first_training_to_that_of_the_split_network(recon, tmp_path, name):
    experiment = EXPERIMENTS[name]
    config = yaml.safe_load((SAMPLES / f"{name}.yaml").read_text())
    root = tmp_path / config["data"]["kwargs"]["root"]
    root.mkdir()
    experiment.write_folder(root)
    config["model"]["kwargs"] = experiment.narrow
    config["data"] |= {"batch_size": experiment.batch_size, "workers": 0}
    config["validation"]["workers"] = 0
    Path("recon.yaml").write_text(yaml.safe_dump(config))

    trained = ["train", "recon.yaml", "--iterations", 2, "--device", "cpu", "-q"]
    recon(*trained, "-o", "joint").succeeds()
    recon("profile", "recon.yaml", "--iterations", 2, "--device", "cpu", "-q", "-o", "scores.json").succeeds()
    recon("rank", "scores.json", "-S", config["run"]["severity"], "-o", "ranking.json").succeeds()
    weights = ["joint/seed-0/last.safetensors", "--ranking", "ranking.json", "--top-k", 3, "-o", "branched.safetensors"]
    recon("split", *weights).succeeds()
    recon(*trained, "--manifest", "branched.manifest.json", "-o", "recon").succeeds()

    for folder, split_layers in (("joint", 0), ("recon", 3)):
        check_results(yaml.safe_load(Path(folder, "results.json").read_text()), experiment, split_layers)


def check_results(results: Mapping[str, Any], experiment: Experiment, split_layers: int) -> None:
    assert (results["steps"], results["split_layers"]) == (2, split_layers)
    for which in ("last", "best"):
        assert {task: set(figures) for task, figures in results[which].items()} == experiment.figures
        for task, figures in results[which].items():
            for figure, statistic in figures.items():
                if (task, figure) in experiment.unlabelled:
                    assert statistic is None
                else:
                    assert math.isfinite(statistic["mean"]), (task, figure)
