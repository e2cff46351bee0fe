"""Where each update rule ends on the problem of two tasks and two parameters of CAGrad, as GradOPS sets it up.

    python -m benchmarks.two_dimensions figures.json                # all rules that are not in the file yet
    python -m benchmarks.two_dimensions figures.json --rules mgda   # some of them anew
    python -m benchmarks.two_dimensions figures.json --write        # and the table and the picture in docs/

The losses are those of CAGrad (its Section 5.1 and published code), for functions of x = 10 theta, as the starting
points of GradOPS are a tenth of CAGrad's. It makes 20,000 steps of Adam at 0.001: on x, as CAGrad does (`x`), or on
theta (`theta`). The first of these has what both papers report, that joint training gets stuck in the valley from two
of the three points. Rules that balance losses get them with 21 added, so that none is below zero.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.pages import page_with
from recon_cli.rules.registry import RULES, make_rule
from recon_cli.rules.rule import GradientRule, LossRule, Observation, PenaltyRule, Rule, WeightRule

STARTS = ((-0.85, 0.75), (-0.85, -0.3), (0.9, 0.9))
STEPS = 20_000
RATES = {"x": 0.0001, "theta": 0.001}
"""What a step of Adam moves theta by at most: 0.001 of x, or of theta."""
EPOCH = 200
"""How many steps count as an epoch, for the rule that knows epochs."""
KEPT = 250
"""A path has a point for so many steps."""
SHIFT = 21.0
PARETO = ((-0.7, -0.8435), (0.0, -0.8355), (0.7, -0.8435))
"""The Pareto set is a curve, and these are its ends and its middle."""

DOCS = Path(__file__).parents[1] / "docs"

# RotoGrad has no feature to rotate here.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {"c": 0.5} if name == "cagrad" else {}) for name in RULES if name not in ("gradops", "rotograd")},
    **{f"gradops, alpha {alpha:g}": ("gradops", {"alpha": alpha}) for alpha in (-5.0, -2.0, -1.0, 0.0, 1.0, 2.0, 5.0)},
}


@dataclass(frozen=True)
class Run:
    """What one rule did.

    :ivar paths: for each starting point, theta at every KEPT steps, and at the end.
    :ivar losses: for each starting point, both losses at the end.
    """

    paths: tuple[tuple[tuple[float, float], ...], ...]
    losses: tuple[tuple[float, float], ...]


def losses_at(theta: torch.Tensor) -> torch.Tensor:
    """Both losses: [N, 2] from [N, 2]."""
    first, second = (10 * theta).unbind(-1)
    least = 0.000005
    upper_1 = torch.log((0.5 * (-first - 7) - torch.tanh(-second)).abs().clamp(min=least)) + 6
    upper_2 = torch.log((0.5 * (-first + 3) + torch.tanh(-second) + 2).abs().clamp(min=least)) + 6
    lower_1 = ((-first + 7) ** 2 + 0.1 * (-second - 8) ** 2) / 10 - 20
    lower_2 = ((-first - 7) ** 2 + 0.1 * (-second - 8) ** 2) / 10 - 20
    above = torch.tanh(0.5 * second).clamp(min=0)
    below = torch.tanh(-0.5 * second).clamp(min=0)
    return torch.stack([above * upper_1 + below * lower_1, above * upper_2 + below * lower_2], dim=-1)


def gradients_at(theta: torch.Tensor, *, twice: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Both losses, [N, 2], and the gradients of each, [N, task, 2].

    :param theta: [N, 2], of which a gradient can be asked.
    :param twice: whether the gradients can be differentiated.
    """
    losses = losses_at(theta)
    rows = [
        torch.autograd.grad(losses[:, task].sum(), theta, retain_graph=True, create_graph=twice)[0] for task in (0, 1)
    ]
    return losses.detach(), torch.stack(rows, dim=1)


def update_of(rule: Rule[Any], rows: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
    """The update of theta, [2]; of a rule with a penalty that of the losses alone."""
    seen = Observation(losses, rows @ rows.T)
    if isinstance(rule, GradientRule):
        return rule.combined(rows, seen)
    if isinstance(rule, PenaltyRule):
        return rule.joint_weights(seen.places) @ rows
    assert isinstance(rule, WeightRule)
    return rule.weights(seen).shared @ rows


def penalty_at(rules: Sequence[Rule[Any]], theta: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The gradient of the penalty on gradients that can be differentiated, [N, 2]."""
    total = torch.zeros((), dtype=torch.float64)
    for rule, own in zip(rules, rows, strict=True):
        assert isinstance(rule, PenaltyRule)
        held = own.detach()
        total = total + (own * (rule.slopes(Observation(torch.zeros(2), held @ held.T)) @ held)).sum()
    return torch.autograd.grad(total, theta)[0]


def run(method: str, rate: float, steps: int = STEPS) -> Run:
    """Let one rule go from all starting points."""
    name, parameters = METHODS[method]
    rules = [make_rule(name, ["1", "2"], seed=seed, **parameters) for seed in range(len(STARTS))]
    shift = SHIFT if issubclass(RULES[name], LossRule) else 0.0
    theta = torch.tensor(STARTS, dtype=torch.float64, requires_grad=True)
    twice = issubclass(RULES[name], PenaltyRule)
    optimizer = torch.optim.Adam([theta], lr=rate)
    kept = []
    for step in range(steps):
        if step % KEPT == 0:
            kept.append(theta.detach().clone())
        losses, rows = gradients_at(theta, twice=twice)
        penalty = penalty_at(rules, theta, rows) if twice else 0
        theta.grad = penalty + torch.stack(
            [update_of(rule, *what) for rule, *what in zip(rules, rows.detach(), losses + shift, strict=True)]
        )
        optimizer.step()
        if "new losses" in RULES[name].NEEDS:
            for rule, after in zip(rules, losses_at(theta.detach()), strict=True):
                rule.after_step(after + shift)
        if (step + 1) % EPOCH == 0:
            for rule in rules:
                rule.after_epoch()
    kept.append(theta.detach().clone())
    paths = torch.stack(kept, dim=1)
    return Run(
        tuple(tuple((float(a), float(b)) for a, b in path) for path in paths),
        tuple((float(a), float(b)) for a, b in losses_at(theta.detach())),
    )


def is_optimal(theta: Sequence[float]) -> bool:
    """Whether a point is in the Pareto set, up to the third decimal."""
    return abs(theta[0]) < 0.705 and abs(theta[1] + 0.8355 + 0.008 * (theta[0] / 0.7) ** 2) < 0.003


def table_of(runs: Mapping[str, Run]) -> str:
    """Where each rule ends, as a table of Markdown."""
    starts = " | ".join(f"from ({a:g}, {b:g})" for a, b in STARTS)
    lines = [f"| rule | {starts} |", "|---|" + "---|" * len(STARTS)]
    for method, found in runs.items():
        cells = []
        for path, losses in zip(found.paths, found.losses, strict=True):
            place = "({:.2f}, {:.2f})".format(*(round(value, 2) + 0.0 for value in path[-1]))
            cells.append(f"{f'**{place}**' if is_optimal(path[-1]) else place}: {losses[0]:.2f}, {losses[1]:.2f}")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


SIDE, GAP, COLUMNS = 150, 26, 6
COLOURS = ("#c0392b", "#2471a3", "#1e8449")
LEVELS = (-14, -10, -6, -2, 2, 4, 6)


def picture_of(runs: Mapping[str, Run]) -> str:
    """A panel for each rule: contours of the mean of the losses, the Pareto set, the three paths, and their ends."""
    rows = -(-len(runs) // COLUMNS)
    width, height = COLUMNS * (SIDE + GAP) + GAP, rows * (SIDE + GAP) + GAP
    panels = [_panel(at, method, found) for at, (method, found) in enumerate(runs.items())]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
            f'<rect width="{width}" height="{height}" fill="white"/>',
            f'<defs><g id="ground"><rect width="{SIDE}" height="{SIDE}" fill="none" stroke="#999"/>{_contours()}'
            f'<path d="{_line(PARETO)}" fill="none" stroke="#888" stroke-width="5"/></g></defs>',
            *panels,
            "</svg>\n",
        ]
    )


def _panel(at: int, method: str, found: Run) -> str:
    x, y = GAP + at % COLUMNS * (SIDE + GAP), GAP + at // COLUMNS * (SIDE + GAP)
    parts = [f'<g transform="translate({x} {y})"><use href="#ground"/><text y="-6" font-size="12">{method}</text>']
    for colour, path in zip(COLOURS, found.paths, strict=True):
        (first_x, first_y), (last_x, last_y) = _place(path[0]), _place(path[-1])
        parts.append(f'<path d="{_line(path)}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(f'<circle cx="{first_x}" cy="{first_y}" r="3"/>')
        parts.append(f'<circle cx="{last_x}" cy="{last_y}" r="4" fill="{colour}" stroke="white"/>')
    return "".join([*parts, "</g>"])


def _place(theta: Sequence[float]) -> tuple[float, float]:
    """From theta, -1.1 to 1.1 each, to a panel."""
    return round((theta[0] + 1.1) / 2.2 * SIDE, 1), round((1.1 - theta[1]) / 2.2 * SIDE, 1)


def _line(path: Sequence[Sequence[float]]) -> str:
    return "M" + "L".join(f"{x} {y}" for x, y in map(_place, path))


def _contours(cells: int = 60) -> str:
    """Lines of equal mean loss: for each cell of a grid, the pieces between the sides that a level crosses."""
    sides = torch.linspace(-1.1, 1.1, cells + 1, dtype=torch.float64)
    grid = torch.cartesian_prod(sides, sides)
    values = losses_at(grid).mean(1).view(cells + 1, cells + 1).tolist()
    places = grid.view(cells + 1, cells + 1, 2).tolist()
    pieces = []
    for i in range(cells):
        for j in range(cells):
            corners = [(i, j), (i + 1, j), (i + 1, j + 1), (i, j + 1)]
            for level in LEVELS:
                crossed = []
                for (a, b), (c, d) in zip(corners, corners[1:] + corners[:1], strict=True):
                    if (values[a][b] < level) != (values[c][d] < level):
                        share = (level - values[a][b]) / (values[c][d] - values[a][b])
                        crossed.append([p + share * (q - p) for p, q in zip(places[a][b], places[c][d], strict=True)])
                pieces += [_line(crossed[at : at + 2]) for at in range(0, len(crossed) - 1, 2)]
    return f'<path d="{"".join(pieces)}" fill="none" stroke="#ccc" stroke-width="0.7"/>'


def main() -> None:
    """Run the rules that are asked for, and show where they end."""
    parser = argparse.ArgumentParser(description="Where each rule ends on a problem of two tasks and two parameters.")
    parser.add_argument("figures", type=Path, help="what was found, also of earlier runs")
    parser.add_argument("--rate", choices=RATES, default="x", help="what Adam's steps of 0.001 are made on")
    parser.add_argument("--rules", nargs="*", choices=METHODS, help="only these; default: those that are not there yet")
    parser.add_argument("--write", action="store_true", help="write the table and the picture into docs/")
    arguments = parser.parse_args()
    known = json.loads(arguments.figures.read_text()) if arguments.figures.exists() else {}
    of_rate = known.setdefault(arguments.rate, {})
    for method in METHODS if arguments.rules is None else arguments.rules:
        if arguments.rules is not None or method not in of_rate:
            of_rate[method] = asdict(run(method, RATES[arguments.rate]))
            arguments.figures.write_text(json.dumps(known))
    for rate, found in known.items():
        runs = {method: Run(**found[method]) for method in METHODS if method in found}
        print(f"Adam at 0.001 on {rate}\n\n{table_of(runs)}")
        if arguments.write:
            (DOCS / f"two_dimensions_{rate}.svg").write_text(picture_of(runs))
            page = DOCS / "two_dimensions.md"
            page.write_text(page_with(page.read_text(), rate, table_of(runs)))


if __name__ == "__main__":
    main()
