"""Metrics that a config names: Recon's, torchmetrics', and anybody's classes and functions."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy
import pytest
import torch
from torchmetrics import classification

from recon_cli.errors import ReconError
from recon_cli.metrics.accuracy import Accuracy
from recon_cli.metrics.lookup import find_metric
from tests.metrics.examples import binary, one_class_each, segments
from tests.ranks import run_on_ranks

HERE = "tests.metrics.foreign"


def computed(metric, *batches):
    for output, label in batches:
        metric.update(output, label)
    return metric.compute()


def test_a_name_is_one_of_recons():
    assert isinstance(find_metric("accuracy", {"ignore": 3}), Accuracy)
    assert find_metric("accuracy", {}, "higher").HIGHER_IS_BETTER
    assert not find_metric("abs_error", {}, "lower").HIGHER_IS_BETTER


@pytest.mark.parametrize(("target", "better", "own"), [("miou", "lower", "higher"), ("rel_error", "higher", "lower")])
def test_a_direction_that_contradicts_recons_metric_is_refused(target, better, own):
    with pytest.raises(ReconError, match=f"`better: {better}` contradicts the metric `{target}`, of which {own}"):
        find_metric(target, {"classes": 3} if target == "miou" else {}, better)


def test_a_subclass_of_recons_metrics_keeps_its_state_and_direction():
    metric = find_metric(f"{HERE}:Errors", {"ignore": 2})
    assert computed(metric, one_class_each(20, 1)) == 1 - computed(
        find_metric("accuracy", {"ignore": 2}), one_class_each(20, 1)
    )
    assert metric.state()["number"] > 0
    assert not metric.HIGHER_IS_BETTER
    with pytest.raises(ReconError, match="contradicts"):
        find_metric(f"{HERE}:Errors", {}, "higher")


@pytest.mark.parametrize(
    ("target", "kwargs", "data", "own", "arguments"),
    [
        ("torchmetrics.classification:MulticlassJaccardIndex", {"num_classes": 5, "ignore_index": -1},
         segments, "miou", {"classes": 5}),
        ("torchmetrics:F1Score", {"task": "binary"}, binary, "f1", {}),
        ("torchmetrics:AUROC", {"task": "binary"}, binary, "auc", {}),
        ("torchmetrics:MeanAbsoluteError", {}, binary, "abs_error", {"ignore": None}),
    ],
)  # fmt: skip
def test_metrics_of_torchmetrics_fit(target, kwargs, data, own, arguments):
    theirs, ours = find_metric(target, kwargs), find_metric(own, arguments)
    for seed in (0, 2):
        output, label = data(6, seed)
        theirs.update(output.requires_grad_(), label)
        ours.update(output, label)
    assert theirs.compute() == pytest.approx(ours.compute(), abs=1e-6)
    assert theirs.HIGHER_IS_BETTER == ours.HIGHER_IS_BETTER
    assert theirs.state() == {}


def test_a_class_with_update_and_compute_is_a_metric():
    metric = find_metric(f"{HERE}:Largest", {"factor": 2.0}, "higher")
    assert computed(metric, one_class_each(3, 1), one_class_each(3, 2)) == 2 * max(
        float(one_class_each(3, seed)[0].max()) for seed in (1, 2)
    )
    assert metric.HIGHER_IS_BETTER
    assert not find_metric(f"{HERE}:Largest", {}, "lower").HIGHER_IS_BETTER


def test_a_class_says_its_direction_itself_and_the_user_goes_before():
    assert not find_metric(f"{HERE}:Smallest", {}).HIGHER_IS_BETTER
    assert find_metric(f"{HERE}:Smallest", {}, "higher").HIGHER_IS_BETTER
    assert find_metric(f"{HERE}:mean_above", {}).HIGHER_IS_BETTER


@pytest.mark.parametrize("name", ["Largest", "gives"])
def test_without_a_direction_it_is_refused(name):
    with pytest.raises(ReconError, match=f"nothing says .* `{HERE}:{name}`") as raised:
        find_metric(f"{HERE}:{name}", {})
    assert raised.value.hint == "set `better: higher` or `better: lower`"


def test_a_function_counts_as_many_times_as_its_label_has_items():
    metric = find_metric(f"{HERE}:mean_above", {"least": 0.5})
    batches = [binary(items, items) for items in (2, 7, 4)]
    expected = float((torch.cat([output for output, _ in batches]) > 0.5).double().mean())
    assert computed(metric, *batches) == pytest.approx(expected, rel=1e-12)


def test_the_items_of_a_dense_label_are_its_pixels():
    metric = find_metric(f"{HERE}:mean_above", {})
    batches = [(sign * torch.ones(2, size, size), torch.zeros(2, size, size)) for sign, size in ((1, 3), (-1, 4))]
    assert computed(metric, *batches) == pytest.approx(9 / 25, rel=1e-12)


def test_a_function_is_averaged_over_ranks():
    ranks = [find_metric(f"{HERE}:mean_above", {}) for _ in range(3)]
    for rank, items in zip(ranks, (3, 8), strict=False):
        rank.update(*binary(items, items))
    ranks[2].merge([rank.state() for rank in ranks])
    both = torch.cat([binary(items, items)[0] for items in (3, 8)])
    assert ranks[2].compute() == pytest.approx(float((both > 0).double().mean()), rel=1e-12)


@pytest.mark.parametrize("name", ["Largest", "mean_above"])
def test_of_nothing_it_is_nan(name):
    assert math.isnan(find_metric(f"{HERE}:{name}", {}, "higher").compute())


def test_a_function_is_not_asked_about_nothing():
    metric = find_metric(f"{HERE}:mean_above", {})
    output, label = binary(4, 0)
    assert computed(metric, (output[:0], label[:0]), (output, label)) == computed(
        find_metric(f"{HERE}:mean_above", {}), (output, label)
    )


@pytest.mark.parametrize("name", ["Odd", "gives"])
@pytest.mark.parametrize("value", [2, 2.0, True, numpy.float32(2), torch.tensor(2), torch.tensor([[2.0]])], ids=repr)
def test_one_number_of_any_kind_is_a_value(name, value):
    metric = find_metric(f"{HERE}:{name}", {"value": value}, "higher")
    found = computed(metric, binary(4, 0), binary(2, 0))
    assert type(found) is float
    assert found == float(value)


@pytest.mark.parametrize("name", ["Odd", "gives"])
@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (torch.zeros(3), "a tensor of shape (3,)"),
        (torch.zeros(0), "a tensor of shape (0,)"),
        ({"iou": 1.0}, "dict"),
        ("0.5", "str"),
        (None, "NoneType"),
        (1j, "complex"),
    ],
    ids=repr,
)
def test_anything_else_is_refused(name, value, shown):
    metric = find_metric(f"{HERE}:{name}", {"value": value}, "higher")
    with pytest.raises(ReconError) as raised:
        computed(metric, binary(4, 0))
    assert raised.value.message.startswith(f"the metric `{HERE}:{name}` gives `{shown}`")


@pytest.mark.parametrize("where", ["init", "update", "compute"])
def test_what_fails_in_a_class_is_said_in_one_sentence(where):
    with pytest.raises(ReconError) as raised:
        computed(find_metric(f"{HERE}:Failing", {"where": where}), binary(4, 0))
    assert raised.value.message == f"the metric `{HERE}:Failing` failed: ValueError: no luck in {where}"


@pytest.mark.parametrize(
    ("target", "kwargs", "words"),
    [
        (f"{HERE}:no_luck", {}, "failed: ValueError: no luck"),
        (f"{HERE}:mean_above", {"most": 1}, "failed: TypeError: .*most"),
        (f"{HERE}:Largest", {"most": 1}, "failed: TypeError: .*most"),
        (f"{HERE}:Unfinished", {}, "has no methods `update` and `compute`"),
        (f"{HERE}:Larges", {}, "has no `Larges`"),
        ("nowhere.at.all:metric", {}, "cannot be found"),
        ("torchmetrics.AUROC", {}, "there is no metric `torchmetrics.AUROC`"),
        ("torchmetrics:AUROC", {"task": "trinary"}, "failed: ValueError"),
    ],
)
def test_what_cannot_be_had_is_a_clear_error(target, kwargs, words):
    with pytest.raises(ReconError, match=words):
        computed(find_metric(target, kwargs, "higher"), binary(4, 0))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_metric_that_is_a_module_goes_where_the_outputs_are(device):
    metric = find_metric(f"{HERE}:Devices", {}, "higher")
    pair = tuple(value.to(device) for value in binary(4, 0))
    assert computed(metric, pair, pair) == 2


def _torchmetrics_on_a_rank(rank: int, size: int, folder: str) -> None:
    metric = find_metric("torchmetrics.classification:BinaryAccuracy", {})
    # The last rank has no batch.
    if rank < size - 1:
        metric.update(*binary(5 + rank, rank))
    Path(folder, f"{rank}.json").write_text(json.dumps(metric.compute()))


@pytest.mark.slow
def test_metrics_of_torchmetrics_come_together_by_themselves(tmp_path):
    run_on_ranks(_torchmetrics_on_a_rank, 3, tmp_path)
    expected = classification.BinaryAccuracy()
    for rank in range(2):
        expected.update(*binary(5 + rank, rank))
    for rank in range(3):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == float(expected.compute())
