"""Which documents a report finds in folders, in which order, and what they are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from recon_cli.report.files import sources_of


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def found_in(*paths: Path) -> list[tuple[str, str]]:
    return [(source.name, source.path.name) for source in sources_of(paths)]


def test_a_whole_run_is_read_with_the_network_as_it_is_first(tmp_path):
    networks = ["joint", "joint-first-k", "joint-recon", "joint-rsl-0", "pcgrad", "pcgrad-recon", "single-task"]
    folder = touch(
        tmp_path / "out", "scores.json", "ranking.json", "report.json", "ledger.json", "network.safetensors",
        *(f"splits/{name}.manifest.json" for name in ("first-k", "recon", "rsl-0")),
        *(f"{name}/results.json" for name in networks),
        "joint/seed-10/scores.json", "joint/seed-2/scores.json", "single-task/seed-0/left/training.json",
    )  # fmt: skip
    assert found_in(folder) == [
        ("profile", "scores.json"), ("profile", "ranking.json"), ("profile", "report.json"),
        ("recon", "recon.manifest.json"), ("first-k", "first-k.manifest.json"), ("rsl-0", "rsl-0.manifest.json"),
        ("joint", "results.json"), ("joint", "scores.json"), ("joint-recon", "results.json"),
        ("pcgrad", "results.json"), ("pcgrad-recon", "results.json"),
        ("joint-first-k", "results.json"), ("joint-rsl-0", "results.json"), ("single-task", "results.json"),
    ]  # fmt: skip
    sources = sources_of([folder])
    assert [source.path.name for source in sources if source.is_profile] == ["scores.json"]
    assert folder / "joint/seed-2/scores.json" in [source.path for source in sources]
    assert [source.path for source in sources if source.more_seeds == 1] == [folder / "joint/seed-2/scores.json"]


def test_the_folder_of_a_training_gives_its_results_and_the_conflicts_of_its_first_seed(tmp_path):
    folder = touch(tmp_path / "joint", "results.json", "seed-1/scores.json", "seed-0/training.json")
    assert found_in(folder) == [("joint", "results.json"), ("joint", "scores.json")]
    assert not any(source.is_profile for source in sources_of([folder]))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("runs/before.json", "before"),
        ("runs/b.manifest.json", "b"),
        ("joint/seed-0/scores.json", "joint/seed-0"),
        ("joint/results.json", "joint"),
    ],
)
def test_a_file_is_called_by_what_tells_it_from_others(tmp_path, path, name):
    touch(tmp_path, path)
    assert found_in(tmp_path / path) == [(name, Path(path).name)]
