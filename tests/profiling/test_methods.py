"""`recon profile` of networks that are trained by update rules."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from recon_cli.rules.registry import RULES
from tests import networks
from tests.conftest import read_scores
from tests.experiment.programs import WRITERS, write
from tests.profiling.test_partial_labels import parts as partial_labels
from tests.profiling.test_resume import parts, uninterrupted
from tests.updating.steps import RULES_FOR_ANY

METHODS = {
    **{name: name for name in RULES},
    "rotograd": {"name": "rotograd", "feature": "body"},
    "gradops by layer": {"name": "gradops", "parameters": {"alpha": -1.0}, "per": "layer", "scale": "published"},
    "pcgrad by groups": {"name": "pcgrad", "groups": [["conv", "norm"]]},
    "gradnorm of one layer": {"name": "gradnorm", "layers": ["body.3"]},
    "mgda of a feature": {"name": "mgda", "parameters": {"normalise": "l2"}, "feature": "body"},
}


@pytest.fixture(autouse=True)
def _from_the_first_call(monkeypatch):
    monkeypatch.setattr(networks.signal_loss, "calls", 0)


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_profile_goes_on_to_the_same_bytes(recon, config, method):
    """With dropout, running statistics, shuffled data that is started over, and steps that are not measured."""
    path = config(**parts(at=17), method=METHODS[method])
    assert recon("profile", path, "-o", "s.json", "--every", 3).code == 130
    # Whatever the process did meanwhile.
    torch.manual_seed(99)
    recon("profile", path, "-o", "s.json", "--every", 3, "--resume").succeeds()
    assert Path("s.json").read_bytes() == uninterrupted(recon, path, "--every", 3)
    scores = read_scores(Path("s.json"))
    assert scores.method.name == method.split()[0]
    assert scores.complete


@pytest.mark.parametrize("method", ["mgda", "gradops", "famo"])
def test_the_rule_changes_what_is_measured_but_not_on_the_first_step(recon, config, method):
    path = config()
    recon("profile", path, "-o", "joint.json", "--iterations", 1).succeeds()
    recon("profile", path, "-o", "rule.json", "--iterations", 1, "--method", method).succeeds()
    joint, rule = read_scores(Path("joint.json")), read_scores(Path("rule.json"))
    assert joint.layers == rule.layers
    assert (joint.method.name, rule.method.name) == ("joint", method)
    for name, given in (("joint", "joint"), ("rule", method)):
        recon("profile", path, "-o", f"{name}.json", "--force", "--iterations", 9, "--method", given).succeeds()
    assert read_scores(Path("joint.json")).layers != read_scores(Path("rule.json")).layers


def test_the_option_keeps_the_settings_of_the_config_if_it_names_the_same_rule(recon, config):
    path = config(method={"name": "gradops", "parameters": {"alpha": -2.0}})
    for given, alpha in (("gradops", {"alpha": -2.0}), ("mgda", {})):
        recon("profile", path, "-o", f"{given}.json", "--method", given).succeeds()
        assert read_scores(Path(f"{given}.json")).method.parameters == alpha


def test_rotations_are_no_layers_and_the_scores_split_the_network_that_was_rotated(recon, config):
    path = config(method=METHODS["rotograd"], profile={"iterations": 9, "features": ["body"]})
    recon("profile", path, "-o", "rotated.json").succeeds()
    recon("profile", path, "-o", "joint.json", "--method", "joint").succeeds()
    rotated, joint = read_scores(Path("rotated.json")), read_scores(Path("joint.json"))
    assert [(layer.name, layer.type) for layer in rotated.layers] == [(each.name, each.type) for each in joint.layers]
    assert rotated.layers != joint.layers
    assert rotated.flow == joint.flow
    assert {layer.name for layer in rotated.unranked} - {layer.name for layer in joint.unranked} == {"rotations.tasks"}
    torch.save(networks.two_tasks().state_dict(), "model.pt")
    recon("rank", "rotated.json", "-o", "ranking.json").succeeds()
    recon("split", "model.pt", "--ranking", "ranking.json", "--top-k", 2, "-o", "branched.pt").succeeds()


def test_a_run_by_another_rule_is_not_gone_on_with(recon, config):
    path = config(**parts(at=4))
    assert recon("profile", path, "-o", "s.json").code == 130
    refused = recon("profile", path, "-o", "s.json", "--resume", "--method", "mgda")
    assert refused.code == 2
    assert "is another one: method:" in refused.err


class Opposite(nn.Module):
    """A network of one shared weight."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(25, 1, bias=False)

    def forward(self, x):
        y = self.shared(x.flatten(1)).squeeze(1)
        return {"left": y, "right": -y}


def mean(output, target):
    return output.mean()


def test_what_a_rule_has_to_say_is_shown(recon, config):
    loss = f"{__name__}:mean"
    path = config(
        model={"target": f"{__name__}:Opposite"},
        tasks=[{"name": name, "loss": loss, "label": name} for name in ("left", "right")],
        method="gradops",
        profile={"iterations": 5},
    )
    shown = recon("profile", path, "-o", "s.json").succeeds()
    assert "GradOPS leaves nothing of the gradients of `left`, `right`: in 5 steps of 5" in " ".join(shown.err.split())


@pytest.mark.parametrize("options", [[], ["--every", 2]])
@pytest.mark.parametrize("method", RULES_FOR_ANY)
def test_batches_that_have_the_labels_of_some_tasks(recon, config, method, options):
    # The first batch shows no layer to be shared.
    path = config(**partial_labels(present=("b", "ac", "abc", "c")))
    recon("profile", path, "-o", "s.json", "--method", method, *options).succeeds()
    assert read_scores(Path("s.json")).complete


@pytest.mark.parametrize("how", WRITERS)
@pytest.mark.parametrize("method", ["famo", "graddrop", "cosreg"])
def test_networks_from_files(recon, config, tmp_path, method, how):
    model = write(how, networks.TwoTasks(), (torch.rand(8, 1, 5, 5),), tmp_path)
    path = config(model=model, method=method)
    recon("profile", path, "-o", "s.json", f"--allow-{next(iter(model))}").succeeds()


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ({"name": "gradops", "parameters": {"seed": 1}}, "the rule `gradops` has no parameter `seed`"),
        ({"name": "mgda", "layers": []}, "`layers` names no layer"),
        ("pcgrda", "there is no update rule `pcgrda`"),
        ({"name": "gradops", "parameters": {"alpha": "much"}}, "the rule `gradops` cannot be set so: `alpha`"),
        ({"name": "gradops", "per": "network"}, "`method.per` should be 'trunk' or 'layer'"),
        ({"name": "gradops", "alpha": 1.0}, "`method.alpha` is not a known key"),
        ({"name": "mgda", "per": "layer", "groups": [["conv"]]}, "contradict each other"),
        ({"name": "mgda", "feature": "body", "per": "layer"}, "one rule sees the gradients of this alone"),
        ({"name": "mgda", "groups": [[]]}, "names no layer"),
        ("rotograd", "the rule `rotograd` rotates a feature that all tasks share, and none is named"),
        ({"name": "rotograd", "feature": "boby"}, "the network has no module `boby` hint: did you mean `body`?"),
    ],
)
def test_a_method_that_cannot_be_is_a_clear_error(recon, config, method, words):
    refused = recon("profile", config(method=method), "-o", "s.json")
    assert refused.code == 2
    assert words in " ".join(refused.err.split())
    assert not list(Path().glob("s*"))
