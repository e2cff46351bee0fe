"""What layers' conflicts owe to the samples that the tasks have in common, of a profile with `halves_every`.

    python -m benchmarks.halves scores.json
    python -m benchmarks.halves scores.json --write    # and into docs/scores.md

The one in the docs is of the demo's config with `halves_every: 1` under `profile`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.pages import page_with
from recon_cli.artifacts.scores import Scores
from recon_cli.ranking.null import random_rate
from recon_cli.ranking.rank import DEFAULT_SEVERITY

PAGE = Path(__file__).parents[1] / "docs" / "scores.md"


def table(scores: Scores) -> str:
    """The shares below the severity of each layer, in the network's order, as a table of Markdown."""
    rows = []
    for layer in scores.layers:
        pairs, same, cross = scores.halves_of(layer, DEFAULT_SEVERITY)
        shares = [same / pairs, cross / pairs, random_rate(DEFAULT_SEVERITY, layer.size)]
        cells = " | ".join(f"{share:.3f}" for share in shares)
        rows.append(f"| {layer.name} | {layer.size:,} | {cells} | {(same - cross) / pairs:+.3f} |\n")
    head = "| layer | parameters | same half | different halves | random directions | coupled |\n"
    return "".join([head, "|---|---|---|---|---|---|\n", *rows])


def main() -> None:
    """Show the table, and put it into the docs if that is asked for."""
    parser = argparse.ArgumentParser(description="What conflicts owe to common samples.")
    parser.add_argument("scores", type=Path, help="the scores of a profile with `halves_every`")
    parser.add_argument("--write", action="store_true", help="write the table into docs/scores.md")
    arguments = parser.parse_args()
    found = table(Scores.read(arguments.scores))
    print(found)
    if arguments.write:
        PAGE.write_text(page_with(PAGE.read_text(), "halves", found))


if __name__ == "__main__":
    main()
