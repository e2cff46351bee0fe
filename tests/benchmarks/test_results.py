"""The tables of docs/results.md: what they say of folders of results whose content is known."""

from __future__ import annotations

import pytest

from benchmarks.pages import page_with
from benchmarks.results import PAGE, sections
from tests.report.making import scores
from tests.results.making import results

FASHION, MNIST = "fashion/accuracy", "mnist/accuracy"
# One layer of which both rankings agree, and two whose order depends on the rule.
PROFILES = {"joint": (3, 2, 1), "joint-rsl-0": (2, 1, 0), "pcgrad": (3, 1, 2)}


def profile(counts: tuple[int, ...], severe: int):
    """Of four iterations in each of the quarters; so many of a layer's cosines are below -0.1, and of the trunk's."""
    layers = {f"layer{place}": [[-0.5] * count + [0.5] * (4 - count)] * 4 for place, count in enumerate(counts)}
    return scores(layers, [[-0.5] * severe + [0.5] * (4 - severe)] * 4, tasks=("fashion", "mnist"))


@pytest.fixture
def tables(tmp_path) -> dict[str, list[list[str]]]:
    """Name of the table -> its rows, without the head."""
    figures = {"single-task": (0.9, 0.98), "joint": (0.8, 0.9), "joint-rsl-0": (0.82, 0.95), "pcgrad": (0.8, 0.9)}
    for name, (fashion, mnist) in figures.items():
        folder = tmp_path / "joint" / name
        folder.mkdir(parents=True)
        values = {FASHION: [fashion, fashion + 0.02], MNIST: [mnist, mnist + 0.01]}
        results(values, single_task=name == "single-task").write(folder / "results.json")
        for seed in (0, 1) if name in PROFILES else ():
            (folder / f"seed-{seed}").mkdir()
            profile(PROFILES[name], 4 if name == "joint" else 2 - seed).write(folder / f"seed-{seed}" / "scores.json")
    whole = []
    for seed, counts in enumerate([(3, 2, 1), (1, 2, 3)]):
        whole.append(tmp_path / f"{seed}.json")
        profile(counts, 2).write(whole[-1])
    found = sections([tmp_path / "joint"], whole)
    return {name: [line.strip("| ").split(" | ") for line in text.splitlines()[2:]] for name, text in found.items()}


def test_accuracies_stand_beside_the_papers(tables):
    rows = {row[0]: row for row in tables["results"]}
    assert rows["joint"][1:3] == ["81.00 ± 1.41", "90.50 ± 0.71"]
    assert rows["joint"][-3:] == ["88.82", "97.42", "-0.94"]
    assert float(rows["joint"][3].split()[0]) == pytest.approx(
        100 * ((0.81 / 0.91 - 1) + (0.905 / 0.985 - 1)) / 2, abs=0.01
    )


def test_reductions_are_the_mean_over_seeds_and_draws_have_the_papers_one_number(tables):
    rows = {row[0]: row for row in tables["conflicts"]}
    assert rows["joint-rsl-0"][-2:] == ["62.50 ± 17.68", "-52.94"]
    assert rows["pcgrad"][-1] == "3.74"


def test_distances_are_between_quarters_rules_and_seeds(tables):
    stages, rules = ({row[0]: row[1] for row in tables[name]} for name in ("stages", "rules"))
    assert stages["1 and 2"] == "0.00 ± 0.00"
    assert stages["1, of two seeds"] == "1.33"
    assert rules["joint and pcgrad"] == "0.67 ± 0.00"
    assert rules["joint, of two seeds"] == "0.00"
    assert "joint-rsl-0, of two seeds" not in rules


def test_the_page_has_a_place_for_each(tables):
    page = PAGE.read_text()
    for name in tables:
        assert page_with(page, name, "a table\n") != page
    with pytest.raises(ValueError, match="no place called 'other'"):
        page_with(page, "other", "a table\n")


def test_a_table_takes_the_place_of_the_one_before():
    page = "before\n<!-- a -->\nold\n<!-- end -->\nbetween\n<!-- b -->\n<!-- end -->\n"
    assert page_with(page, "a", "new\n") == "before\n<!-- a -->\nnew\n<!-- end -->\nbetween\n<!-- b -->\n<!-- end -->\n"
