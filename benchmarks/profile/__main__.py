"""The command line: starts a process for each thing that is measured, and prints what they find."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.profile.cases import CASES, chosen
from benchmarks.profile.report import Figures
from benchmarks.profile.timing import Ratio, Timing
from benchmarks.profile.ways import installed

_PROCESSES = 3
_NOTES = """\
Each way does whole steps of training. Memory is the peak of a process of its own above that of one that trains jointly;
differences are from float64. autogram finds the Gram matrix of the whole trunk only. "ours, by operations" is what our
step would take if time were the number of floating-point operations, and (1 + 2T)/3 the same for a forward and T
backward passes, of two forward passes each."""


def main(arguments: Sequence[str]) -> None:
    """Print a block for every case."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description="What profiling costs.")
    parser.add_argument("words", nargs="*", metavar="WORD", help="measure the cases with a word in their name only")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where the networks are")
    parser.add_argument("--rounds", type=int, help="how often every way is timed (7; 3 with 40 tasks)")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="measure times only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file too")
    options = parser.parse_args(arguments)
    machine = {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if options.device == "cuda" else options.device,
        "threads": torch.get_num_threads(),
    }
    print(", ".join(f"{name} {value}" for name, value in machine.items()), _NOTES, sep="\n", flush=True)
    figures = []
    for name in chosen(options.words):
        timed = bool(options.words) or not CASES[name].memory_only
        if timed or options.memory:
            figures.append(measure(name, options.device, options.rounds, timed, options.memory))
            print("", *figures[-1].lines(), sep="\n", flush=True)
            if options.json:
                # After every case, so that a run that is interrupted leaves what it found.
                document = {**machine, "cases": [asdict(one) for one in figures]}
                options.json.write_text(json.dumps(document, indent=2) + "\n")


def measure(name: str, device: str, rounds: int | None, timed: bool, memory: bool) -> Figures:
    """The figures of one case, all from processes of their own; what a process fails at is left out."""
    found = output("timing", name, device, *([str(rounds)] if rounds else [])) if timed else None
    peaks = {way: peak(name, device, way) for way in installed()} if memory else {}
    return Figures(
        case=name,
        tasks=CASES[name].tasks,
        timing=None if found is None else Timing(**{**found, "unsampled": Ratio(**found["unsampled"])}),
        peaks={way: most for way, most in peaks.items() if most is not None},
    )


def peak(name: str, device: str, way: str) -> int | None:
    """The median peak of several processes: where an allocation lands differs from one to the next."""
    found = [output("memory", name, device, way) for _ in range(1 if CASES[name].is_long else _PROCESSES)]
    return None if None in found else statistics.median(found)


def output(module: str, *arguments: str) -> Any:
    """The document that a module of this package prints, None if it fails; its complaint is on standard error."""
    command = [sys.executable, "-m", f"benchmarks.profile.{module}", *arguments]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        print(f"failed, status {done.returncode}: {module} {' '.join(arguments)}", file=sys.stderr)
        return None
    return json.loads(done.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
