"""The pictures: the same each time, whatever layers are called, and none without matplotlib."""

from __future__ import annotations

import importlib.util
import xml.etree.ElementTree as ET

import pytest

from recon_cli.conflicts.runs import Run
from recon_cli.errors import ReconError
from recon_cli.report.pictures import pictures_of
from tests.relations.making import of_five_tasks
from tests.report.making import HOSTILE, chain, content, scores

pytest.importorskip("matplotlib", reason="matplotlib is not installed")


def some_findings(names=("conv", "norm", "fc"), tasks=("left", "right")):
    bad = [[-0.5, 0.5, -0.3, 0.1], [0.5] * 4]
    profile = scores(dict.fromkeys(names, bad), tasks=tasks, flow=chain(names, tasks))
    after = scores({names[0]: [[0.1, 0.5, -0.3, 0.1], [0.5] * 4]}, tasks=tasks)
    return content(profile, runs=(Run("before", profile), Run("after", after))).findings


@pytest.mark.parametrize("form", ["svg", "png"])
def test_the_same_findings_give_the_same_pictures(form):
    one, other = pictures_of(some_findings(), form), pictures_of(some_findings(), form)
    assert one == other
    assert set(one) == {
        f"{name}.{form}" for name in ("ranking", "stages", "cosines", "layers", "tasks", "costs", "changes")
    }


def test_pictures_tell_no_date_and_no_program():
    for data in pictures_of(some_findings(), "svg").values():
        assert b"<dc:date>" not in data
        ET.fromstring(data)
    assert all(b"Software" not in data for data in pictures_of(some_findings(), "png").values())


def test_the_users_own_style_changes_nothing():
    import matplotlib

    plain = pictures_of(some_findings(), "svg")
    with matplotlib.rc_context({"font.size": 30, "svg.hashsalt": "mine", "axes.facecolor": "red"}):
        assert pictures_of(some_findings(), "svg") == plain
        assert matplotlib.rcParams["font.size"] == 30


def test_hostile_names_are_drawn_as_they_are():
    for data in pictures_of(some_findings(HOSTILE, HOSTILE[:2]), "svg").values():
        ET.fromstring(data)


def test_only_what_is_there_is_drawn():
    ranked = content(scores({"a": [[]]})).findings
    assert set(pictures_of(ranked, "svg")) == {"stages.svg", "tasks.svg", "costs.svg"}
    over_time = content(of_five_tasks(40)).findings
    assert {"course.svg", "tasks.svg"} <= set(pictures_of(over_time, "svg"))
    assert pictures_of(over_time, "png") == pictures_of(over_time, "png")
    with pytest.raises(ReconError, match="nothing to draw"):
        pictures_of(content().findings, "svg")


def test_without_matplotlib_a_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("recon_cli.report.pictures.find_spec", lambda name: None)
    with pytest.raises(ReconError, match="matplotlib, which is not installed") as refused:
        pictures_of(some_findings(), "svg")
    assert "recon_cli[pictures]" in refused.value.hint
    assert importlib.util.find_spec("matplotlib")
