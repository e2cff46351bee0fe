"""The problem of two tasks and two parameters, and what the documentation says of it."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
import torch

from benchmarks.two_dimensions import (
    DOCS,
    KEPT,
    METHODS,
    RATES,
    STARTS,
    gradients_at,
    is_optimal,
    losses_at,
    picture_of,
    run,
)


def test_the_middle_of_the_pareto_set_is_where_published_code_has_it():
    theta = torch.tensor([[0.0, -0.83552]], dtype=torch.float64, requires_grad=True)
    losses, gradients = gradients_at(theta)
    assert float(losses[0, 0]) == pytest.approx(float(losses[0, 1]))
    # It marks its minimum of the mean of the losses at x = (0, -8.3552).
    assert gradients[0].mean(0).norm() < 1e-4 * gradients[0, 0].norm()
    assert is_optimal((0.0, -0.83552))
    assert not is_optimal(STARTS[0])


def test_the_losses_are_those_of_cagrad_above_and_below():
    x = torch.tensor([[2.0, 3.0], [2.0, -3.0]], dtype=torch.float64)
    losses = losses_at(x / 10)
    tanh = torch.tanh(torch.tensor(3.0, dtype=torch.float64))
    above = torch.tanh(torch.tensor(1.5, dtype=torch.float64))
    assert float(losses[0, 0]) == pytest.approx(float(above * ((-4.5 + tanh).abs().log() + 6)))
    assert float(losses[0, 1]) == pytest.approx(float(above * ((0.5 - tanh + 2).abs().log() + 6)))
    assert float(losses[1, 0]) == pytest.approx(float(above) * ((25 + 0.1 * 25) / 10 - 20))
    assert float(losses[1, 1]) == pytest.approx(float(above) * ((81 + 0.1 * 25) / 10 - 20))


@pytest.mark.parametrize("method", ["joint", "famo", "graddrop", "cosreg", "gradops, alpha -2"])
def test_a_rule_goes_down_from_every_point_and_is_drawn(method):
    found = run(method, RATES["theta"], steps=KEPT)
    assert [path[0] for path in found.paths] == list(STARTS)
    assert all(len(path) == 2 for path in found.paths)
    before = losses_at(torch.tensor(STARTS, dtype=torch.float64)).mean(1).tolist()
    assert all(sum(after) / 2 < start for after, start in zip(found.losses, before, strict=True))
    picture = ElementTree.fromstring(picture_of({method: found}))
    assert method in "".join(picture.itertext())


def test_the_documentation_has_every_rule():
    page = (DOCS / "two_dimensions.md").read_text()
    for rate in RATES:
        table = page.partition(f"<!-- {rate} -->")[2].partition("<!-- end -->")[0]
        assert all(f"\n| {method} |" in table for method in METHODS)
        picture = ElementTree.fromstring((DOCS / f"two_dimensions_{rate}.svg").read_text())
        assert all(method in "".join(picture.itertext()) for method in METHODS)
