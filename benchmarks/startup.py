"""CPU time of the commands that need no tensors: `make bench`.

Each is run as a process of its own, in turn, several rounds; user and system time of the process are added. The last
column is relative to starting Python, which is measured in the same rounds.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROUNDS = 9
RANKING = Path(__file__).resolve().parent.parent / "tests" / "data" / "recon_authors_resnet18_S-0.1.json"
RECON = ("-m", "recon_cli")


def main() -> None:
    """Print a table of CPU seconds."""
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        commands: dict[str, tuple[str, ...]] = {
            "python": ("-c", "pass"),
            "recon --help": (*RECON, "--help"),
            "recon rank (ours)": (*RECON, "rank", "scores.json", "-S", "-0.1", "-o", "-"),
            "recon rank (table)": (*RECON, "rank", "scores.json", "-S", "-0.1"),
            "recon rank (authors' file)": (*RECON, "rank", str(RANKING), "--json"),
            "recon compare-rankings": (*RECON, "compare-rankings", str(RANKING), str(RANKING), "--json"),
            "recon compare-conflicts": (*RECON, "compare-conflicts", "scores.json", "again.json"),
            "recon split (0.3 MB)": (*RECON, "split", "model.safetensors", "--layers", "fc", "--tasks", "a,b",
                                     "-o", "b.safetensors", "--force"),
        }  # fmt: skip
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(ROUNDS):
            for name, arguments in commands.items():
                seconds[name].append(cpu_seconds([sys.executable, *arguments], Path(folder)))
    base = statistics.median(seconds["python"])
    print(f"{'command':28} {'median':>8} {'least':>8} {'most':>8} {'/ python':>9}")
    for name, values in seconds.items():
        middle = statistics.median(values)
        print(f"{name:28} {middle:7.3f}s {min(values):7.3f}s {max(values):7.3f}s {middle / base:9.1f}")


def prepare(folder: Path) -> None:
    """Make a scores file of a real profile, and a checkpoint."""
    script = (
        "import torch; from pathlib import Path\n"
        "from recon_cli.checkpoints.saving import save_state_dict; from recon_cli.zoo import small_resnet\n"
        "save_state_dict(small_resnet().state_dict(), Path('model.safetensors'))"
    )
    config = RANKING.parents[2] / "sample_configs" / "multi_fashion_mnist_small.yaml"
    for arguments in (
        ["-W", "ignore", "-c", script],
        [*RECON, "profile", str(config), "-o", "scores.json", "--iterations", "20", "--quiet"],
    ):
        subprocess.run([sys.executable, *arguments], cwd=folder, check=True)
    shutil.copy(folder / "scores.json", folder / "again.json")


def cpu_seconds(command: list[str], folder: Path) -> float:
    """User and system seconds of one run."""
    before = os.times()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


if __name__ == "__main__":
    main()
