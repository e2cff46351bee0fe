"""Metrics by their names and arguments."""

from __future__ import annotations

import re
from inspect import signature
from pathlib import Path

import pytest

from recon_cli.errors import ReconError
from recon_cli.metrics.registry import METRICS, make_metric

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.mark.parametrize(
    ("name", "kwargs", "message", "hint"),
    [
        ("acuracy", {}, "there is no metric `acuracy`", "did you mean `accuracy`?"),
        ("zzz", {}, "there is no metric `zzz`", "`angle_within`; name your own as package.module:name"),
        ("miou", {"clases": 3}, "the metric `miou` has no argument `clases`", "did you mean `classes`?"),
        ("accuracy", {"top": 5}, "the metric `accuracy` has no argument `top`", "it has `ignore`"),
        ("auc", {"ignore": 5}, "the metric `auc` has no argument `ignore`", "it has none"),
        ("angle_mean", {"total": 0}, "the metric `angle_mean` has no argument `total`", "it has none"),
        ("miou", {}, "the metric `miou` cannot be made so: `classes`: Missing", None),
        ("miou", {"classes": 1}, "the metric `miou` cannot be made so: `classes`: ", None),
        ("miou", {"classes": "13"}, "the metric `miou` cannot be made so: `classes`: ", None),
        ("miou", {"classes": True}, "the metric `miou` cannot be made so: `classes`: ", None),
        ("miou", {"classes": 3, "ignore": 0.5}, "the metric `miou` cannot be made so: `ignore`: ", None),
        ("f1", {"average": "mean"}, "the metric `f1` cannot be made so: `average`: ", None),
        ("f1", {"classes": 10}, "the binary F1 score is of two classes, not of 10", "set `average: macro`"),
        ("abs_error", {"ignore": float("nan")}, "the metric `abs_error` cannot be made so: `ignore`: ", None),
        ("angle_within", {"degrees": 0}, "the metric `angle_within` cannot be made so: `degrees`: ", None),
        ("angle_within", {"degrees": 181}, "the metric `angle_within` cannot be made so: `degrees`: ", None),
    ],
)
def test_what_cannot_be_made_is_a_clear_error(name, kwargs, message, hint):
    with pytest.raises(ReconError) as raised:
        make_metric(name, kwargs)
    assert message in raised.value.message
    assert (raised.value.hint is None) == (hint is None)
    assert hint is None or hint in raised.value.hint


def test_the_documentation_lists_every_metric_with_its_arguments_and_direction():
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\| (\w+) \|", PAGE.read_text(), re.MULTILINE)
    listed = {name: (re.findall(r"`(\w+)(?:: (\S+))?`", arguments), better) for name, arguments, better in rows}
    assert listed == {
        name: (
            [
                (key, "" if argument.default is argument.empty else shown(argument.default))
                for key, argument in signature(metric).parameters.items()
            ],
            "higher" if metric.HIGHER_IS_BETTER else "lower",
        )
        for name, metric in METRICS.items()
    }


def shown(default: object) -> str:
    """As YAML has it."""
    return "null" if default is None else str(default)
