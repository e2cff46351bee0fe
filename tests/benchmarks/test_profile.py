"""The benchmark's ways agree with float64 autograd, and the published one is the published one, bit for bit."""

from __future__ import annotations

import copy
import random
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.profile.bench import Bench
from benchmarks.profile.cases import CASES, Case, chosen
from benchmarks.profile.published import Published
from benchmarks.profile.report import Figures
from benchmarks.profile.timing import Ratio, Timing, differences, error_of_median, operations
from benchmarks.profile.ways import HAS_TORCHJD, TORCHJD, WAYS, Joint, Unsampled


def trunk() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(100, 8), nn.Tanh()
    )


TINY = Case(trunk, lambda: nn.Linear(8, 10), 3, lambda: torch.randn(6, 2, 5, 5), (6,))

needs_torchjd = pytest.mark.skipif(not HAS_TORCHJD, reason="torchjd is not installed")
ways = pytest.mark.parametrize("name", [pytest.param(n, marks=needs_torchjd if n in TORCHJD else ()) for n in WAYS])


def exact_cosines(bench: Bench) -> torch.Tensor:
    """The cosines of the shared layers by float64 autograd, a forward pass for every task."""
    model = copy.deepcopy(bench.model).double()
    layers = [model.trunk.get_submodule(layer.name.removeprefix("trunk.")) for layer in bench.layers]
    gradients = []
    for task in range(bench.tasks):
        model.zero_grad()
        F.cross_entropy(model(bench.x.double())[task], bench.labels[task]).backward()
        gradients.append([torch.cat([p.grad.flatten() for p in layer.parameters()]) for layer in layers])
    pairs = [(i, j) for i in range(bench.tasks) for j in range(i + 1, bench.tasks)]
    return torch.stack(
        [
            torch.stack([F.cosine_similarity(of[i], of[j], dim=0) for i, j in pairs])
            for of in zip(*gradients, strict=True)
        ]
    )


@ways
def test_every_way_finds_the_cosines_of_float64_autograd(name: str) -> None:
    bench = Bench(TINY)
    exact = exact_cosines(bench)
    found = WAYS[name](bench)()
    if name in ("joint", "autogram"):
        assert found is None
    else:
        torch.testing.assert_close(found, exact, atol=1e-5, rtol=0)


@ways
def test_every_way_leaves_the_joint_gradient(name: str) -> None:
    bench = Bench(TINY)
    torch.stack(bench.losses()).mean().backward()
    joint = [parameter.grad.clone() for parameter in bench.model.parameters()]
    bench.model.zero_grad()
    way = WAYS[name](bench)
    # The second step finds what the first one left.
    way()
    way()
    model = way._bench.model
    # The published update is the sum of the task gradients, and a head has its own whole gradient.
    scale = bench.tasks if name == "published" else 1
    torch.testing.assert_close([p.grad for p in model.parameters()], [scale * gradient for gradient in joint])


def test_a_step_that_is_not_sampled_leaves_the_joint_gradient() -> None:
    bench = Bench(TINY)
    way = Unsampled(bench)
    Joint(bench)()
    joint = [parameter.grad for parameter in bench.model.parameters()]
    way()
    torch.testing.assert_close([p.grad for p in bench.model.parameters()], joint, atol=0, rtol=0)


@ways
def test_no_way_changes_the_weights(name: str) -> None:
    bench = Bench(TINY)
    before = [parameter.clone() for parameter in bench.model.parameters()]
    way = WAYS[name](bench)
    way()
    torch.testing.assert_close(list(way._bench.model.parameters()), before, atol=0, rtol=0)


def test_the_published_cosines_are_bitwise_those_of_a_naive_restatement() -> None:
    bench = Bench(TINY)
    losses = bench.losses()
    expected = []
    for layer in bench.layers:
        vectors = []
        for loss in losses:
            gradients = torch.autograd.grad(loss, list(layer.parameters.values()), retain_graph=True)
            vectors.append(torch.cat([gradient.flatten() for gradient in gradients]))
        for i, j in ((0, 1), (0, 2), (1, 2)):
            one, two = (v / v.norm(2, dim=0, keepdim=True).clamp_min(1e-12) for v in (vectors[i], vectors[j]))
            expected.append((one * two).sum())
    found = Published(bench)()
    assert torch.equal(found, torch.stack(expected).view(-1, 3).double())


def test_the_difference_from_float64_is_the_largest_one() -> None:
    bench = Bench(TINY)
    exact = exact_cosines(bench)
    wrong = exact.clone()
    wrong[1, 2] += 0.25
    wrong[0, 0] -= 0.125
    assert differences(bench, {"exact": exact, "wrong": wrong}) == {
        "exact": pytest.approx(0, abs=1e-12),
        "wrong": pytest.approx(0.25),
    }


def test_operations_are_those_of_the_matrix_products() -> None:
    case = Case(lambda: nn.Linear(5, 7), lambda: nn.Linear(7, 10), 2, lambda: torch.randn(3, 5), (3,))
    first, head = 2 * 3 * 5 * 7, 2 * 3 * 7 * 10
    # Forward and weight gradient everywhere, the gradient of the input only behind the first layer.
    assert operations(Joint(Bench(case))) == 2 * first + 2 * 3 * head


def test_the_error_of_a_median_is_that_of_normal_samples() -> None:
    draw = random.Random(3)
    values = [draw.gauss(1.0, 0.1) for _ in range(1000)]
    assert error_of_median(values) == pytest.approx((torch.pi / 2) ** 0.5 * 0.1 / 1000**0.5, rel=0.25)


@pytest.fixture
def figures() -> Figures:
    seconds = {name: [number * 1.0, number * 2.0, number * 6.0] for number, name in enumerate(WAYS, start=1)}
    timing = Timing(seconds, Ratio(1.001, 0.002, 30), 1.6, {"ours": 1e-6})
    return Figures("tiny", 3, timing, {name: 2**20 * number for number, name in enumerate(WAYS, start=1)})


def row(figures: Figures, name: str) -> list[str]:
    """The cells behind a way's name."""
    (line,) = (line for line in figures.lines() if line[2:26].strip() == name)
    return line[26:].split()


def test_a_row_has_times_memory_and_difference(figures: Figures) -> None:
    assert row(figures, "ours") == ["2.00", "2.00", "2.00", "1.00", "1", "MiB", "1.0e-06"]
    assert row(figures, "published")[:6] == ["4.00", "4.00", "4.00", "2.00", "3", "MiB"]
    assert row(figures, "(1 + 2T)/3") == ["2.33"]
    assert row(figures, "unsampled")[0] == "1.0010"


def test_what_was_not_measured_is_a_dash(figures: Figures) -> None:
    assert row(replace(figures, peaks={}), "ours")[4:] == ["-", "1.0e-06"]
    assert row(replace(figures, timing=None), "ours") == ["-", "-", "-", "-", "1", "MiB", "-"]


def test_torchjd_is_not_needed(figures: Figures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.profile.ways.HAS_TORCHJD", False)
    for name in TORCHJD:
        assert row(figures, name) == ["not", "installed"]


def test_lines_fit_a_terminal(figures: Figures) -> None:
    assert max(len(line) for text in figures.lines() for line in text.splitlines()) <= 140


@pytest.mark.parametrize(("words", "number"), [([], len(CASES)), (["T=40"], 1), (["resnet18", "segnet"], 4)])
def test_words_choose_cases(words: list[str], number: int) -> None:
    assert len(chosen(words)) == number


@pytest.mark.parametrize("make", [pytest.param(case, id=name) for name, case in CASES.items()])
def test_every_case_has_shared_layers_and_a_loss_per_task(make: Case) -> None:
    bench = Bench(make)
    assert len(bench.model.heads) == make.tasks
    assert bench.layers
