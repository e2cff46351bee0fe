"""`recon report` as a command: what it takes, what it refuses, and how its files appear."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.cli.test_conduct import start
from tests.results.making import results


def page_findings(text: str) -> dict:
    return json.loads(text.partition('<script id="findings" type="application/json">')[2].partition("</script>")[0])


def test_a_scores_file_alone_becomes_a_page(recon, scores):
    result = recon("report", scores, "-o", "report.html").succeeds()
    assert result.out == ""
    assert result.err.startswith("note: wrote report.html, ")
    found = page_findings(Path("report.html").read_text("ascii"))
    ranked = recon("rank", scores, "--json").succeeds().document
    assert [(layer["name"], layer["score"]) for layer in found["layers"]] == [
        (layer["name"], layer["score"]) for layer in ranked["layers"]
    ]


def test_the_page_goes_to_standard_output(recon, scores):
    recon("report", scores, "-o", "report.html", "--quiet").succeeds()
    result = recon("report", "-", "-o", "-", stdin=scores.read_text()).succeeds()
    assert result.err == ""
    assert page_findings(result.out)["layers"] == page_findings(Path("report.html").read_text())["layers"]


def test_a_severity_ranks_the_scores_anew(recon, scores, ranking):
    recon("report", scores, ranking, "-S", "-0.2", "-o", "report.html").succeeds()
    found = page_findings(Path("report.html").read_text())
    assert found["severity"] == -0.2
    recon("report", scores, "-S", "-0.123", "-o", "other.html").refuses("no exact count for the severity -0.123")
    recon("report", ranking, "-S", "-0.2", "-o", "other.html").refuses("--severity ranks scores")


def test_nothing_is_replaced_unless_it_is_asked_for(recon, scores):
    Path("report.html").write_text("mine")
    recon("report", scores, "-o", "report.html").refuses("exists already")
    assert Path("report.html").read_text() == "mine"
    recon("report", scores, "-o", "report.html", "--force").succeeds()
    os.link(scores, "linked.json")
    recon("report", scores, "-o", "linked.json", "--force").refuses("is the input")


def test_pictures_appear_together_or_not_at_all(recon, scores):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    result = recon("report", scores, "-o", "pictures", "--format", "svg").succeeds()
    found = sorted(path.name for path in Path("pictures").iterdir())
    assert result.err == f"note: wrote {len(found)} pictures to pictures\n"
    assert "ranking.svg" in found
    Path("pictures/ranking.svg").write_text("mine")
    Path("pictures/stages.svg").unlink()
    recon("report", scores, "-o", "pictures", "--format", "svg").refuses("exists already")
    assert not Path("pictures/stages.svg").exists()
    assert Path("pictures/ranking.svg").read_text() == "mine"
    recon("report", scores, "-o", "-", "--format", "png").refuses("name a folder")
    recon("report", scores, "-o", "pictures/ranking.svg", "--format", "png").refuses("is a file")


def test_files_that_a_report_shows_nothing_of_are_refused(recon, scores, tmp_path):
    recon("methods", "--json")
    Path("methods.json").write_text(recon("methods", "--json").out)
    recon("report", "methods.json", "-o", "r.html").refuses("`recon.methods/1`, of which a report shows nothing")
    Path("list.json").write_text("[1]")
    recon("report", "list.json", "-o", "r.html").refuses("no document of Recon")
    recon("report", "none.json", "-o", "r.html").refuses("there is no file `none.json`")
    Path("empty").mkdir()
    recon("report", "empty", "-o", "r.html").refuses("holds no document that a report could be made of")
    recon("report", "-", "-", "-o", "r.html").refuses("`-` is given twice")
    comparison = recon("compare-conflicts", scores, copied(scores, "b.json"), "--json").out
    Path("one.json").write_text(comparison)
    Path("two.json").write_text(comparison)
    recon("report", "one.json", "two.json", "-o", "r.html").refuses("2 comparisons of conflicts are given")
    assert not Path("r.html").exists()


def copied(path: Path, name: str) -> Path:
    Path(name).write_bytes(path.read_bytes())
    return Path(name)


def test_every_document_that_it_shows_is_taken(recon, scores, ranking, checkpoint):
    recon("split", checkpoint, "--ranking", ranking, "--top-k", 1, "-o", "b.safetensors", "-q").succeeds()
    recon("compare-conflicts", scores, copied(scores, "after.json"), "-o", "conflicts.json", "-q").succeeds()
    for name in ("one", "two"):
        Path(name).mkdir()
        results({"left/accuracy": 0.5, "right/accuracy": 0.5}).write(Path(name) / "results.json")
    recon("compare-results", "one", "two", "-o", "comparison.json", "-q").succeeds()
    files = [ranking, "b.manifest.json", "conflicts.json", "comparison.json"]
    for alone in files:
        recon("report", alone, "-o", "-").succeeds()
    found = page_findings(recon("report", scores, *files, "-o", "-").succeeds().out)
    assert [run["name"] for run in found["outcomes"]["runs"]] == ["one", "two"]
    assert len(found["changes"]["runs"]) == 2
    assert found["splits"][0]["name"] == "b"
    two = page_findings(recon("report", scores, "after.json", "one", "two", "-o", "-").succeeds().out)
    assert len(two["runs"]) == len(two["outcomes"]["runs"]) == 2


def test_a_file_that_is_named_twice_is_read_once(recon, scores):
    Path("folder").mkdir()
    copied(scores, "folder/scores.json")
    found = page_findings(recon("report", "folder", "folder/scores.json", "-o", "-").succeeds().out)
    assert found["runs"] == [{"name": "folder", "rate": found["stages"]["whole"]}]


def test_runs_with_one_name_are_told_apart_by_their_paths(recon, scores):
    for name in ("x/joint/seed-0", "y/joint/seed-0"):
        Path(name).mkdir(parents=True)
        copied(scores, f"{name}/scores.json")
    paths = ["x/joint/seed-0/scores.json", "y/joint/seed-0/scores.json"]
    found = page_findings(recon("report", *paths, "-o", "-").succeeds().out)
    assert [run["name"] for run in found["runs"]] == paths


def test_the_page_takes_neither_torch_nor_numpy_nor_matplotlib(scores, tmp_path):
    code = (
        "import sys; from recon_cli.cli.app import main; code = main()\n"
        "assert not {'torch', 'numpy', 'matplotlib', 'rich'} & set(sys.modules)\n"
        "raise SystemExit(code)"
    )
    result = start("report", scores, "-o", "report.html", cwd=tmp_path, code=code)
    assert result.returncode == 0, result.stderr
