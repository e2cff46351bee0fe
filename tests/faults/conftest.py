"""Checkpoints of some megabytes, `recon` as a process, and small disks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file

ROOT = Path(__file__).parents[2]
LAYERS = tuple(f"layer{number}" for number in range(8))
TENSORS = tuple(f"{layer}.weight" for layer in LAYERS)
TASKS = ("--tasks", "left,right")


class Ended:
    """How a process ended.

    :ivar code: its exit code; negative if a signal killed it.
    :ivar err: its standard error without notes.
    """

    def __init__(self, process: subprocess.CompletedProcess[str]) -> None:
        self.code = process.returncode
        self.out = process.stdout
        self.err = "".join(line for line in process.stderr.splitlines(True) if not line.startswith("note: "))

    def refuses(self, *words: str) -> None:
        """Check for exit code 2 and one sentence with these words."""
        self.ends(2, *words)

    def ends(self, code: int, *words: str) -> None:
        """Check for an exit code and one sentence with these words."""
        assert self.code == code, (self.code, self.err)
        sentence, *hints = self.err.splitlines()
        assert sentence.startswith("error: "), self.err
        assert all(hint.startswith("hint: ") for hint in hints), self.err
        assert "unexpectedly" not in sentence
        assert self.out == ""
        for word in words:
            assert word in sentence, self.err

    def succeeds(self) -> None:
        """Check for exit code 0 and not a word of complaint."""
        assert (self.code, self.err) == (0, ""), (self.code, self.err)


def command(*arguments: object, faults: Mapping[str, object] | None = None) -> list[str]:
    """The command line of a process that runs `recon`, with misfortunes as `tests.faults.process` takes them."""
    start = ["recon_cli"] if faults is None else ["tests.faults.process", json.dumps(faults)]
    return [sys.executable, "-m", *start, *(os.fspath(a) if isinstance(a, Path) else str(a) for a in arguments)]


def environment(**changes: str | None) -> dict[str, str]:
    """The variables of a process, some of them changed or (None) taken away."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **changes}
    return {name: value for name, value in variables.items() if value is not None}


def run(*arguments: object, cwd: Path, faults: Mapping[str, object] | None = None, **options: object) -> Ended:
    """Run `recon` as a process to its end."""
    options = {"env": environment(), "timeout": 120, **options}
    return Ended(
        subprocess.run(
            command(*arguments, faults=faults), cwd=cwd, capture_output=True, text=True, check=False, **options
        )  # type: ignore[call-overload]
    )


def split(source: Path, output: object, layers: str = LAYERS[0], *more: object) -> list[object]:
    """The arguments of a split."""
    return ["split", source, "--layers", layers, *TASKS, "--quiet", "-o", output, *more]


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """All that is in a folder, hidden files too."""
    return {path.name: path.read_bytes() if path.is_file() else None for path in folder.iterdir()}


def check_branched(path: Path, source: Path, layers: Sequence[str] = LAYERS[:1]) -> None:
    """Check a branched file tensor by tensor, and that its manifest belongs to it.

    :param source: the safetensors file with the values that it was split from.
    """
    expected = {}
    for key, value in load_file(source).items():
        layer, _, name = key.rpartition(".")
        places = [f"{layer}.tasks.{task}.{name}" for task in ("left", "right")] if layer in layers else [key]
        expected.update(dict.fromkeys(places, value))
    found = load_file(path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    beside = json.loads(path.with_name(f"{path.stem}.manifest.json").read_bytes())
    with safe_open(path, "pt") as file:
        assert beside in [json.loads(text) for text in file.metadata().values() if text.startswith("{")]
    assert [layer["name"] for layer in beside["layers"]] == list(layers)


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same 8 tensors of 1 MiB as safetensors and as a torch file."""
    folder = tmp_path_factory.mktemp("sources")
    generator = torch.Generator().manual_seed(0)
    state = {key: torch.randn(256, 1024, generator=generator) for key in TENSORS}
    save_file(state, folder / "model.safetensors")
    torch.save(state, folder / "model.pt")
    return {"safetensors": folder / "model.safetensors", "torch": folder / "model.pt"}


@pytest.fixture(scope="session")
def source(sources: dict[str, Path]) -> Path:
    """8 tensors of 1 MiB as safetensors."""
    return sources["safetensors"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Make small disks: file systems in memory, in a namespace of their own, so that nobody else sees them."""
    with ExitStack() as stack:

        def mount(options: str) -> Path:
            folder = tmp_path / f"disk{options}"
            folder.mkdir()
            script = 'mount -t tmpfs -o "$1" tmpfs "$2" && echo mounted && cat'
            keeper = stack.enter_context(
                subprocess.Popen(
                    ["unshare", "-rm", "sh", "-c", script, "sh", options, folder],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                )
            )  # fmt: skip
            assert keeper.stdin is not None
            stack.callback(keeper.stdin.close)
            assert keeper.stdout is not None
            if keeper.stdout.readline() != b"mounted\n":
                pytest.skip("file systems cannot be mounted here")
            return Path(f"/proc/{keeper.pid}/root{folder}")

        try:
            yield mount
        except FileNotFoundError:
            pytest.skip("there is no `unshare` here")
