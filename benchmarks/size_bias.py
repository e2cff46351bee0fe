"""How far a ranking lists layers by their size: the rank correlation of score and number of parameters.

    python -m benchmarks.size_bias demo_results/scores.json --authors recon_authors_resnet18_S-0.1.json
    python -m benchmarks.size_bias demo_results/scores.json --authors ... --write    # and into docs/scores.md

The authors' ranking has counts alone. What random directions would have had is taken off them for a search over the
first 30 of 120 epochs, in batches of 256 of 120,000 images.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from benchmarks.pages import page_with
from recon_cli.artifacts.ranking import Ranking
from recon_cli.artifacts.scores import Scores
from recon_cli.layers.discovery import discover_layers
from recon_cli.ranking.agreement import spearman_rho
from recon_cli.ranking.kinds import COUPLED, KINDS
from recon_cli.ranking.null import random_rate
from recon_cli.ranking.rank import DEFAULT_SEVERITY, rank
from recon_cli.zoo import resnet18

PAGE = Path(__file__).parents[1] / "docs" / "scores.md"
SEARCHED = 30 * (120_000 // 256)


def of_profile(scores: Scores) -> dict[str, float | None]:
    """Kind of score -> its correlation with the layers' sizes."""
    found = {}
    for kind in KINDS:
        # It is of halves of batches, which the demo does not measure.
        if kind == COUPLED and scores.halves is None:
            continue
        layers = rank(scores, kind=kind).layers
        found[kind] = spearman_rho(
            {layer.name: layer.score for layer in layers}, {layer.name: float(layer.size or 0) for layer in layers}
        )
    return found


def of_authors(ranking: Ranking) -> dict[str, float | None]:
    """The same of the authors' counts, as they are and in excess of random directions."""
    sizes = {layer.name: layer.size for layer in discover_layers(resnet18())}
    counts = {layer.name: layer.score for layer in ranking.layers}
    excess = {name: count / SEARCHED - random_rate(DEFAULT_SEVERITY, sizes[name]) for name, count in counts.items()}
    known = {name: float(sizes[name]) for name in counts}
    return {"conflicts": spearman_rho(counts, known), "excess": spearman_rho(excess, known)}


def table(profile: Mapping[str, float | None], authors: Mapping[str, float | None]) -> str:
    """The correlations, as a table of Markdown."""

    def cell(value: float | None) -> str:
        return "" if value is None else f"{value:+.2f}"

    rows = [f"| {kind} | {cell(rho)} | {cell(authors.get(kind))} |\n" for kind, rho in profile.items()]
    return "".join(["| score | demo | authors' ResNet-18 |\n", "|---|---|---|\n", *rows])


def main() -> None:
    """Show the correlations, and put them into the docs if that is asked for."""
    parser = argparse.ArgumentParser(description="How far a ranking lists layers by their size.")
    parser.add_argument("scores", type=Path, help="the scores of a profile")
    parser.add_argument("--authors", type=Path, required=True, help="the authors' ranking of ResNet-18")
    parser.add_argument("--write", action="store_true", help="write the table into docs/scores.md")
    arguments = parser.parse_args()
    found = table(of_profile(Scores.read(arguments.scores)), of_authors(Ranking.read(arguments.authors)))
    print(found)
    if arguments.write:
        PAGE.write_text(page_with(PAGE.read_text(), "sizes", found))


if __name__ == "__main__":
    main()
