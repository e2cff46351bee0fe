"""The table that stands on the terminal while a network trains."""

from __future__ import annotations

import io

from rich.console import Console

from recon_cli.reporting.training import progress_table


def test_losses_figures_and_learning_rates_have_their_places():
    evaluations = [(2, {"seg": {"loss": 0.5, "miou": 0.25}}, True), (4, {"seg": {"loss": 0.75, "miou": 0.5}}, False)]
    console = Console(file=io.StringIO(), width=80)
    console.print(progress_table({"seg": 1.5, "depth": None}, [0.1, 0.1, 0.01], evaluations))
    lines = console.file.getvalue().splitlines()
    assert lines[0].split("  ")[0].startswith("task")
    cells = [line.split() for line in lines]
    assert ["seg", "loss", "1.5000", "0.5000", "0.7500"] in cells
    assert ["miou", "0.2500", "0.5000"] in cells
    assert ["learning", "rate", "0.1,", "0.01"] in cells
