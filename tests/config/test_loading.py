"""Configs: what is accepted, and that all errors come in one message."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recon_cli.config import strict_yaml
from recon_cli.config.loading import load_config
from recon_cli.config.schema import Config
from recon_cli.config.template import template
from recon_cli.errors import ReconError

MINIMAL = """
model: {target: "a:b"}
tasks:
  - {name: one, loss: mse_loss, label: 0}
  - {name: two, loss: "my.losses:two", label: two}
data: {target: "a.b:c.d"}
optimizer: {target: Adam, kwargs: {lr: 1e-3}}
"""


def refused(tmp_path: Path, text: str) -> str:
    path = tmp_path / "recon.yaml"
    path.write_text(text)
    with pytest.raises(ReconError) as caught:
        load_config(path)
    assert "recon.yaml" in caught.value.message
    return caught.value.message


def test_a_minimal_config_is_enough(tmp_path):
    (tmp_path / "recon.yaml").write_text(MINIMAL)
    config = load_config(tmp_path / "recon.yaml").config
    assert config.task_names == ("one", "two")
    assert config.optimizer.kwargs == {"lr": 0.001}
    assert (config.seed, config.device, config.profile.iterations, config.profile.stages) == (0, "auto", 300, 4)


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).parents[2].glob("sample_configs/*.yaml")), ids=lambda path: path.name
)
def test_the_sample_configs_are_valid(path):
    assert load_config(path).config.tasks


def test_the_template_is_valid_and_shows_the_defaults():
    config = Config.model_validate(strict_yaml.parse(template(), "the template"))
    assert config.profile == Config.model_fields["profile"].default
    assert (config.seed, config.device) == (0, "auto")


def test_init_writes_a_config_that_runs(recon):
    recon("init").succeeds()
    recon("profile", "recon.yaml", "-o", "s.json", "--iterations", 1, "--device", "cpu").succeeds()
    recon("init").refuses("`recon.yaml` exists already", "--force")
    recon("init", "--force", "-q").succeeds()
    assert recon("init", "-").succeeds().out.encode() == template()


def test_an_unknown_key_comes_with_the_nearest_known_one(tmp_path):
    assert "`modle` is not a known key; did you mean `model`?" in refused(tmp_path, MINIMAL.replace("model:", "modle:"))
    message = refused(tmp_path, MINIMAL.replace("name: one, loss", "name: one, los"))
    assert "`tasks.0.los` is not a known key; did you mean `loss`?" in message
    assert "`tasks.0.loss` is missing" in message
    message = refused(tmp_path, MINIMAL + "profile: {iteration: 3}")
    assert "`profile.iteration` is not a known key; did you mean `iterations`?" in message


def test_all_errors_are_reported_at_once(tmp_path):
    message = refused(
        tmp_path,
        """
        model: {target: nowhere}
        tasks: [{name: "a.b", label: 1}, {name: "", loss: mse_loss}]
        data: {target: "a:b", batch_size: 0, workers: many}
        profile: {iterations: 0, severities: [0.1]}
        seed: -1
        device: gpu
        """,
    )
    for words in (
        "has 12 errors",
        "`model.target`: 'nowhere' is not of the form package.module:callable",
        "`tasks.0.name`: the task name `a.b` holds a dot",
        "`tasks.0.loss` is missing",
        "`tasks.1.name`: a task's name is empty",
        "`tasks.1.label` is missing",
        "`data.batch_size` should be greater than or equal to 1, not `0`",
        "`data.workers` should be a valid integer, not `'many'`",
        "`optimizer` is missing",
        "`profile.iterations`",
        "`profile.severities`: the severity 0.1 is not in (-1, 0]",
        "`seed`",
        "`device` should be 'auto', 'cuda' or 'cpu', not `'gpu'`",
    ):
        assert words in message, message


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ("[{name: one, loss: mse_loss, label: 0}]", "1 task named, but conflicts arise between at least two"),
        ("[]", "0 tasks named"),
        (
            "[{name: one, loss: mse_loss, label: 0}, {name: one, loss: mse_loss, label: 1}]",
            "the task 'one' is named twice",
        ),
        ('[{name: "a/b", loss: mse_loss, label: 0}]', "holds a slash"),
        ('[{name: "a\\tb", loss: mse_loss, label: 0}]', "`a\\tb` holds a control"),
        ('[{name: "a,b", loss: mse_loss, label: 0}]', "holds a comma"),
        ('[{name: " a", loss: mse_loss, label: 0}]', "begins or ends with a blank"),
        ("[{name: no, loss: mse_loss, label: 0}]", "`tasks.0.name` should be a valid string, not `False`"),
        ('[{name: one, loss: "a b", label: 0}]', "neither a name in torch.nn.functional"),
    ],
)
def test_tasks_that_cannot_be_are_refused(tmp_path, tasks, words):
    start, end = MINIMAL.index("tasks:"), MINIMAL.index("data:")
    assert words in refused(tmp_path, f"{MINIMAL[:start]}tasks: {tasks}\n{MINIMAL[end:]}")


@pytest.mark.parametrize("source", ['torchscript: "net.pt"', 'exported: "net.pt2"'])
def test_the_network_may_come_from_a_file(tmp_path, source):
    (tmp_path / "recon.yaml").write_text(MINIMAL.replace('{target: "a:b"}', f"{{{source}, checkpoint: w.pt}}"))
    loaded = load_config(tmp_path / "recon.yaml")
    assert loaded.config.model.target is None
    assert [path.name for path in loaded.files] == ["recon.yaml", source.split('"')[1], "w.pt"]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("{}", "`model`: it names no network; give one of `target`, `torchscript` and `exported`"),
        ("{checkpoint: w.pt}", "`model`: it names no network"),
        ('{target: "a:b", exported: net.pt2}', "`model`: it names more than one network: `target`, `exported`"),
        ("{torchscript: net.pt, exported: net.pt2}", "more than one network: `torchscript`, `exported`; keep one"),
        ("{torchscript: net.pt, kwargs: {width: 3}}", "`kwargs` are the arguments of a `target`"),
        ("{torchscript: 3}", "`model.torchscript` should be a valid string, not `3`"),
        ("{torchscrip: net.pt}", "`model.torchscrip` is not a known key; did you mean `torchscript`?"),
    ],
)
def test_networks_that_cannot_be_are_refused(tmp_path, model, words):
    assert words in refused(tmp_path, MINIMAL.replace('{target: "a:b"}', model))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no mapping"),
        ("[1, 2]", "holds no mapping"),
        ("a: [1", "line 2"),
        ("a: 1\na: 2", "line 2, column 1: the key `a` stands twice"),
        ("a: {b: 1, b: 2}", "the key `b` stands twice"),
        ("a: &x [1]\nb: *x", "aliases"),
        ("a: &x [*x]", "aliases"),
        ("a: !!python/object/apply:os.system ['true']", "tags (`!name`) are not allowed"),
        ("1: 2", "the key `1` is not text"),
        ("[" * 100 + "]" * 100, "nested deeper than 50 levels"),
        ("a: \x01", "not valid YAML"),
        ("a: '\\ud800'", "`a` is not a known key"),
        ("a" * (1 << 20) + ": 1", "larger than 1048576 bytes"),
    ],
)
def test_yaml_that_is_no_plain_config_is_refused(tmp_path, text, words):
    assert words in refused(tmp_path, text)


def test_missing_and_binary_files_are_refused(recon):
    recon("profile", "none.yaml", "-o", "s.json").refuses("there is no config `none.yaml`", "recon init")
    Path("b.yaml").write_bytes(b"\xff\xfe\xff")
    recon("profile", "b.yaml", "-o", "s.json").refuses("`b.yaml` is not UTF-8 text")
    recon("profile", ".", "-o", "s.json").refuses("cannot read the config `.`")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("5E4", 5e4), ("-1.e2", -100.0), ("1.5e-2", 0.015), ("12", 12), ("e3", "e3"), ("0.1", 0.1)],
)
def test_numbers_are_what_people_mean(text, value):
    found = strict_yaml.parse(f"a: {text}".encode(), "this")["a"]
    assert found == value
    assert type(found) is type(value)


def test_json_is_yaml(tmp_path):
    content = strict_yaml.parse(MINIMAL.encode(), "this")
    assert strict_yaml.parse(json.dumps(content).encode(), "this") == content


TRAINED = """
validation: {target: "a.b:d"}
scheduler: {target: StepLR, kwargs: {step_size: 3}}
"""


def test_the_keys_of_a_training_have_defaults(tmp_path):
    (tmp_path / "recon.yaml").write_text(MINIMAL + TRAINED)
    config = load_config(tmp_path / "recon.yaml").config
    assert config.validation is not None
    assert (config.validation.batch_size, config.validation.workers, config.validation.inputs) == (None, 0, None)
    assert config.scheduler is not None
    assert config.scheduler.per == "epoch"
    assert (config.optimizer.clip_norm, config.optimizer.accumulate, config.precision) == (None, 1, "float32")
    assert (config.train.epochs, config.train.iterations, config.train.best) == (None, None, "loss")
    assert (config.train.evaluate_every, config.train.conflicts) == (None, None)
    assert config.tasks[0].metrics == []


def test_a_metric_is_called_by_its_name_or_by_what_it_is(tmp_path):
    metrics = 'metrics: [accuracy, {target: "my.metrics:Box.iou"}, {target: f1, name: score}]'
    (tmp_path / "recon.yaml").write_text(MINIMAL.replace("name: one,", f"name: one, {metrics},"))
    task = load_config(tmp_path / "recon.yaml").config.tasks[0]
    assert [metric.title for metric in task.metrics] == ["accuracy", "iou", "score"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("scheduler: {target: StepLR, per: batch}", "`scheduler.per`"),
        ("scheduler: {target: 'step lr'}", "neither a name in torch.optim.lr_scheduler nor of the form"),
        ("precision: double", "`precision`"),
        ("validation: {target: d}", "not of the form package.module:callable"),
        ("validation: {target: 'a:b', shuffle: true}", "`validation.shuffle` is not a known key"),
        ("validation: {target: 'a:b', batch_size: 0}", "`validation.batch_size`"),
        ("train: {epochs: 0}", "`train.epochs`"),
        ("train: {epochs: 2, iterations: 2}", "`epochs` and `iterations` contradict each other"),
        ("train: {conflicts: {}}", "give one of `every` and `samples`"),
        ("train: {conflicts: {every: 1, samples: 1}}", "give one of `every` and `samples`"),
        ("train: {trackers: [mlflow]}", "`train.trackers.0`"),
        ("train: {log_every: 0}", "`train.log_every`"),
        ("train: {epoch: 1}", "did you mean `epochs`?"),
    ],
)
def test_keys_of_a_training_that_make_no_sense(tmp_path, text, words):
    assert words in refused(tmp_path, MINIMAL + text)


@pytest.mark.parametrize(
    "part", ["clip_norm: -1", "clip_norm: 0", "clip_norm: .inf", "accumulate: 0", "accumulate: 1.5"]
)
def test_an_optimizer_that_makes_no_step(tmp_path, part):
    key = part.partition(":")[0]
    assert f"`optimizer.{key}`" in refused(tmp_path, MINIMAL.replace("target: Adam,", f"target: Adam, {part},"))
