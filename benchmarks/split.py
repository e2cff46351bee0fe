"""What rewriting a checkpoint costs: against `cp` of the result, and against loading and saving it with the libraries.

    python -m benchmarks.split                    # 2 GiB, five rounds, and the memory for 0.5, 2 and 8 GiB
    python -m benchmarks.split --gib 0.5 --rounds 3 --no-memory

Every way runs in a process of its own, one after the other in each round, and every round in the other direction; a
file counts as written when it is synced to disk, for `cp` as well. Printed are medians, and ratios to the `cp` of the
same round. Before each, another process takes and returns memory for the file that is written: a virtual machine may
have lent its free memory to others, and would ask for it back during one way and not during the next.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

BLOCKS = 24
SPLIT = 6
TASKS = ("a", "b", "c")
LAYERS = {"q": (1, 1), "k": (1, 1), "v": (1, 1), "o": (1, 1), "up": (4, 1), "down": (1, 4)}
"""The layers of a block and the sides of their weights, in units of the width."""

GIB = 1 << 30
CHUNK = 1 << 24


@dataclass(frozen=True)
class Cost:
    """What one process took.

    :ivar seconds: from its start to its end.
    :ivar cpu: of it and its children.
    :ivar anonymous: the most anonymous memory that it had, in MiB.
    """

    seconds: float
    cpu: float
    anonymous: float


def shapes(gib: float) -> dict[str, tuple[int, ...]]:
    """A transformer of about so many GiB of float32."""
    width = int((gib * GIB / 4 / BLOCKS / sum(rows * columns for rows, columns in LAYERS.values())) ** 0.5)
    found: dict[str, tuple[int, ...]] = {}
    for block in range(BLOCKS):
        for name, (rows, columns) in LAYERS.items():
            found[f"blocks.{block}.{name}.weight"] = (rows * width, columns * width)
            found[f"blocks.{block}.{name}.bias"] = (rows * width,)
    return found


def write_source(path: Path, gib: float) -> None:
    """Write a safetensors file of random bytes, which no file system can compress."""
    header: dict[str, object] = {}
    end = 0
    for name, shape in shapes(gib).items():
        size = 4
        for length in shape:
            size *= length
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        noise = os.urandom(CHUNK)
        while end > 0:
            file.write(noise[: min(end, CHUNK)])
            end -= CHUNK
        os.fsync(file.fileno())


def chosen_layers() -> str:
    """The layers of a quarter of the blocks, as --layers takes them."""
    return ",".join(f"blocks.{block}.{name}" for block in range(SPLIT) for name in LAYERS)


def split_command(source: Path, output: Path) -> list[str]:
    """The command that is measured."""
    return [
        sys.executable, "-m", "recon_cli", "split", str(source), "--layers", chosen_layers(),
        "--tasks", ",".join(TASKS), "-o", str(output), "--force", "-q",
    ]  # fmt: skip


def copy_command(source: Path, output: Path) -> list[str]:
    """`cp`, and the sync that the other ways do as well."""
    return ["sh", "-c", 'cp "$1" "$2" && sync "$2"', "sh", str(source), str(output)]


_LIBRARIES = """
import os, sys
layers = tuple(name + "." for name in sys.argv[3].split(","))
def branched(state):
    found = {}
    for name, value in state.items():
        if name.startswith(layers):
            layer, rest = name.rsplit(".", 1)
            found.update({f"{layer}.tasks.{task}.{rest}": value.clone() for task in sys.argv[4].split(",")})
        else:
            found[name] = value
    return found
def synced(path):
    descriptor = os.open(path, os.O_RDWR)
    os.fsync(descriptor)
"""

_SAFETENSORS = """
from safetensors.torch import load_file, save_file
save_file(branched(load_file(sys.argv[1])), sys.argv[2])
synced(sys.argv[2])
"""

_TORCH = """
import torch
state = torch.load(sys.argv[1], map_location="cpu", mmap=True, weights_only=True)
torch.save(branched(state), sys.argv[2])
synced(sys.argv[2])
"""


def library_command(program: str, source: Path, output: Path) -> list[str]:
    """Load all, clone what is split, save all, with a library."""
    layers, tasks = chosen_layers(), ",".join(TASKS)
    return [sys.executable, "-c", _LIBRARIES + program, str(source), str(output), layers, tasks]


def measure(command: Sequence[str]) -> Cost:
    """Run a command and measure it.

    :raises subprocess.CalledProcessError: if it fails.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    process = subprocess.Popen(command)
    most = [0.0]
    watcher = threading.Thread(target=_watch, args=(process, most))
    watcher.start()
    code = process.wait()
    seconds = time.perf_counter() - begun
    watcher.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if code:
        raise subprocess.CalledProcessError(code, command)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(seconds, cpu, most[0])


def _watch(process: subprocess.Popen[bytes], most: list[float]) -> None:
    """Note the most anonymous memory of a process while it runs."""
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            return
        found = [line for line in status.splitlines() if line.startswith("RssAnon")]
        if found:
            most[0] = max(most[0], int(found[0].split()[1]) / 1024)
        time.sleep(0.005)


_TAKE_MEMORY = "import mmap, sys; mmap.mmap(-1, int(sys.argv[1]), mmap.MAP_PRIVATE | mmap.MAP_POPULATE)"


def compare(
    folder: Path, ways: dict[str, Callable[[Path], list[str]]], rounds: int, memory: int
) -> dict[str, list[Cost]]:
    """Run all ways in every round, in turns forwards and backwards; the first round only warms the caches up.

    :param memory: the bytes that are taken and returned before each.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        names = list(ways) if number % 2 else list(reversed(ways))
        for name in names:
            for leftover in folder.glob("out.*"):
                leftover.unlink()
            subprocess.run([sys.executable, "-c", _TAKE_MEMORY, str(memory)], check=True)
            cost = measure(ways[name](folder))
            if number:
                costs[name].append(cost)
    return costs


def report(costs: dict[str, list[Cost]], base: str) -> None:
    """Print medians, and the ratios to one of the ways round by round."""
    print(f"{'':34}{'wall s':>8}{'of ' + base:>10}{'(least to most)':>18}{'CPU s':>8}{'anon MiB':>10}")
    for name, found in costs.items():
        ratios = [cost.seconds / other.seconds for cost, other in zip(found, costs[base], strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(
            f"{name:34}{statistics.median(c.seconds for c in found):8.2f}{statistics.median(ratios):10.2f}{spread:>18}"
            f"{statistics.median(c.cpu for c in found):8.2f}{max(c.anonymous for c in found):10.0f}"
        )


def compare_safetensors(folder: Path, rounds: int) -> None:
    """A safetensors file."""
    source, result = folder / "source.safetensors", folder / "result.safetensors"
    subprocess.run(split_command(source, result), check=True)
    print(f"safetensors, {source.stat().st_size / GIB:.2f} GiB to {result.stat().st_size / GIB:.2f} GiB")
    ways: dict[str, Callable[[Path], list[str]]] = {
        "cp": lambda at: copy_command(result, at / "out.safetensors"),
        "recon split": lambda at: split_command(source, at / "out.safetensors"),
        "safetensors: load_file, save_file": lambda at: library_command(_SAFETENSORS, source, at / "out.safetensors"),
    }
    report(compare(folder, ways, rounds, 2 * result.stat().st_size), "cp")


def compare_torch(folder: Path, rounds: int) -> None:
    """A torch file, to safetensors and to torch."""
    source, result = folder / "source.pt", folder / "result.safetensors"
    subprocess.run(
        [
            sys.executable, "-c", "import sys, torch\nfrom safetensors.torch import load_file\n"
            "torch.save(load_file(sys.argv[1]), sys.argv[2])", str(folder / "source.safetensors"), str(source),
        ],
        check=True,
    )  # fmt: skip
    print(f"torch.save's file, {source.stat().st_size / GIB:.2f} GiB to {result.stat().st_size / GIB:.2f} GiB")
    ways: dict[str, Callable[[Path], list[str]]] = {
        "cp": lambda at: copy_command(result, at / "out.safetensors"),
        "import torch": lambda _: [sys.executable, "-c", "import torch"],
        "recon split to .safetensors": lambda at: split_command(source, at / "out.safetensors"),
        "recon split to .pt": lambda at: split_command(source, at / "out.pt"),
        "torch: load (mapped), save": lambda at: library_command(_TORCH, source, at / "out.pt"),
    }
    report(compare(folder, ways, rounds, 2 * result.stat().st_size), "cp")


def compare_memory(folder: Path, sizes: Sequence[float]) -> None:
    """The memory for files of several sizes, over that of a file of a few bytes."""
    print("anonymous memory of `recon split`, over that for a file of 0.001 GiB")
    least = 0.0
    for gib in (0.001, *sizes):
        source = folder / "memory.safetensors"
        write_source(source, gib)
        cost = measure(split_command(source, folder / "out.safetensors"))
        least = least or cost.anonymous
        print(f"  {gib:6} GiB: {cost.anonymous:6.1f} MiB, {cost.anonymous - least:+6.1f} MiB; {cost.seconds:6.2f} s")
        source.unlink()


def compare_planning(folder: Path, count: int, rounds: int) -> None:
    """Planning the split of a file of very many tensors."""
    source = folder / "many.safetensors"
    header = {
        f"layers.{at}.weight": {"dtype": "F32", "shape": [2], "data_offsets": [8 * at, 8 * at + 8]}
        for at in range(count)
    }
    text = json.dumps(header).encode()
    source.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8 * count))
    command = [
        sys.executable, "-m", "recon_cli", "split", str(source), "--layers", "layers.3", "--tasks", "a,b",
    ]  # fmt: skip
    for arguments in (["--dry-run", "--json"], ["-o", str(folder / "out.safetensors"), "--force", "-q"]):
        costs = []
        for _ in range(rounds):
            begun = time.perf_counter()
            subprocess.run([*command, *arguments], check=True, stdout=subprocess.DEVNULL)
            costs.append(time.perf_counter() - begun)
        print(f"{count:,} tensors, {' '.join(arguments[:1])}: {statistics.median(costs):.2f} s")
    source.unlink()


def main() -> None:
    """Run the comparisons that are asked for."""
    parser = argparse.ArgumentParser(description="What rewriting a checkpoint costs.")
    parser.add_argument("--gib", type=float, default=2.0, help="the size of the source")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=float, nargs="*", default=[0.5, 2, 8], help="sizes whose memory is measured")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the files are made; a temporary folder by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write_source(folder / "source.safetensors", options.gib)
        compare_safetensors(folder, options.rounds)
        if not options.no_torch:
            compare_torch(folder, options.rounds)
        for leftover in folder.iterdir():
            leftover.unlink()
        compare_planning(folder, 100_000, 3)
        if not options.no_memory:
            compare_memory(folder, options.memory)


if __name__ == "__main__":
    main()
