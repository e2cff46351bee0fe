"""Rules by their names."""

from __future__ import annotations

import pytest

from docs.make_methods import PAGE, page_text
from recon_cli.errors import ReconError
from recon_cli.rules.registry import RULES, make_rule


@pytest.mark.parametrize(
    ("name", "settings", "message", "hint"),
    [
        ("pcgrda", {}, "there is no update rule `pcgrda`", "did you mean `pcgrad`?"),
        ("zzz", {}, "there is no update rule `zzz`", "`joint`"),
        ("gradops", {"alhpa": 1}, "`gradops` has no parameter `alhpa`", "did you mean `alpha`?"),
        ("pcgrad", {"alpha": 1}, "`pcgrad` has no parameter `alpha`", "it has none"),
        ("cagrad", {"c": -1.0}, "`cagrad` cannot be set so: `c`: ", None),
        ("cagrad", {"c": "much"}, "`cagrad` cannot be set so: `c`: ", None),
        ("gradops", {"alpha": float("nan")}, "`gradops` cannot be set so: `alpha`: ", None),
        ("mgda", {"normalise": "l1"}, "`mgda` cannot be set so: `normalise`: ", None),
        ("joint", {"scale": "sum"}, "there is no scale `sum`", "`mean`, `published`"),
    ],
)
def test_what_cannot_be_made_is_a_clear_error(name, settings, message, hint):
    with pytest.raises(ReconError) as raised:
        make_rule(name, ["a", "b"], **settings)
    assert message in raised.value.message
    assert (raised.value.hint is None) == (hint is None)
    assert hint is None or hint in raised.value.hint


def test_a_rule_without_tasks_is_an_error():
    with pytest.raises(ReconError, match="at least one task"):
        make_rule("joint", [])


@pytest.mark.parametrize("name", RULES)
def test_every_parameter_is_described_and_has_a_default(name):
    for field in RULES[name].PARAMETERS.model_fields.values():
        assert field.description
        assert not field.is_required()


def test_the_command_lists_every_rule(recon):
    document = recon("methods", "--json").succeeds().document
    assert document["schema"] == "recon.methods/1"
    assert [method["name"] for method in document["methods"]] == list(RULES)
    by_name = {method["name"]: method for method in document["methods"]}
    assert by_name["mgda"]["parameters"][0]["choices"] == ["none", "l2", "loss", "loss+"]
    assert by_name["gradvac"]["parameters"][0]["bounds"] == "> 0 and <= 1"
    assert by_name["joint"]["cost"] == "nothing"
    assert by_name["famo"]["cost"] == "a second forward pass"
    shown = recon("methods").succeeds().out
    assert all(f"{name} " in shown and rule.PAPER in shown for name, rule in RULES.items())
    assert recon("methods", "-q").succeeds().out == ""


def test_the_tables_of_the_documentation_are_those_of_the_code():
    assert PAGE.read_text() == page_text(PAGE.read_text()), "run `make schemas`"
