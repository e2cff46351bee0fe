"""A small file never makes the command take much memory, whatever it claims."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.hostile.making import Asked, Stored, members_of, pickled, tensor, write_zip

ROOT = Path(__file__).parents[2]
NAME = "x.safetensors"
"""Which kind of file it is, its content says."""
LIMIT_MIB, LIMIT_RATIO = 300, 30
"""What the command takes to start with room for some nodes, and what each byte of a larger pickle may ask for."""

PROGRAM = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
from recon_cli.cli.app import main
code = main(["split", sys.argv[1], "--layers", "w", "--tasks", "a,b", "-o", "out.safetensors"])
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(code, int(peak) // 1024, "torch" in sys.modules)
"""


def zip_of(value: object, kind: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    write_zip(stream, members_of(value), kind=kind)  # type: ignore[arg-type]
    return stream.getvalue()


def unfolding(levels: int) -> object:
    leaf: object = 0
    for _ in range(levels):
        leaf = [leaf, leaf]
    return leaf


def header(text: bytes, length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(8, "little") + text


def entry(shape: list[int], end: int) -> bytes:
    return header(json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode())


def repeated(part: bytes) -> Callable[[], bytes]:
    """A pickle of 16 MiB that repeats one instruction."""
    return lambda: b"\x80\x04" + part * ((1 << 24) // len(part))


def bomb(part: bytes) -> Callable[[], bytes]:
    return lambda: zip_of(repeated(part)(), zipfile.ZIP_DEFLATED)


def short(part: bytes) -> Callable[[], bytes]:
    """A list of 2 MiB of instructions that is a whole pickle."""
    return lambda: zip_of(b"\x80\x04](" + part * ((1 << 21) // len(part)) + b"e.")


FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "a bytearray of 4 GiB": (lambda: zip_of({"w": tensor(), "x": Asked(bytearray, 4 << 30)}), "a buffer"),
    "bytes of 4 GiB": (lambda: zip_of({"w": tensor(), "x": Asked(bytes, 4 << 30)}), "a call of"),
    "a tensor of 1 GiB": (lambda: zip_of({"w": tensor(), "x": Asked(torch.FloatTensor, 1 << 28)}), "FloatTensor"),
    "a storage of 1 GiB": (lambda: zip_of({"w": tensor(), "x": Asked(torch.UntypedStorage, 1 << 30)}), "a call of"),
    "stride 0": (lambda: zip_of({"w": tensor(None, 0, (1 << 20, 1 << 20), (0, 0))}), "repeats its memory"),
    "a storage of 4 TiB": (lambda: zip_of({"w": tensor(Stored(count=1 << 40), 0, (1 << 40,))}), "storage has 16 bytes"),
    "a million dimensions": (lambda: zip_of({"w": tensor(None, 0, (1 << 62,) * 10**6, (1,) * 10**6)}), "too large"),
    "2^28 leaves": (lambda: zip_of({"w": tensor(), "x": unfolding(28)}), "repeats the same parts"),
    "a packed pickle of lists": (bomb(b"]"), "that claim to unpack to"),
    "a packed pickle of sets": (bomb(b"\x8f"), "that claim to unpack to"),
    "a pickle of marks": (lambda: zip_of(repeated(b"(")()), "more containers than its bytes"),
    "a pickle of lists": (short(b"]"), "more containers than its bytes"),
    "a pickle of tuples": (short(b"N\x85\x85\x85\x85\x85\x85\x85"), "more containers than its bytes"),
    "a pickle of memos": (short(b"N\x94"), "holds no state dict"),
    "a pickle of sets": (short(b"\x8fK\1"), "holds no state dict"),
    "an old file of lists": (lambda: pickle.dumps(0x1950A86A20F9469CFC6C, 2) + repeated(b"]")(), "more containers"),
    "a header of 2^63 bytes": (lambda: header(b"{}", 1 << 63), "header claims"),
    "a header of 100 MB that is not there": (lambda: header(b"{}", 100_000_000), "header claims"),
    "a header of brackets": (lambda: header(b'{"w":' + b"[" * (1 << 22)), "nested too deeply"),
    "a tensor of 16 EiB": (lambda: entry([1 << 62], 1 << 64), "is not valid JSON"),
    "a tensor of 4 EiB": (lambda: entry([1 << 60], 1 << 62), "bytes of tensors, but 0 follow"),
    "overflowing sizes": (lambda: entry([1 << 62, 1 << 62, 0], 0), "is too large"),
    "numbers of a million digits": (lambda: header(b'{"w":' + b"9" * 10**6 + b"}"), "is too large"),
    "a shape of a million sizes": (lambda: entry([1] * 10**6, 4), "bytes of tensors, but 0 follow"),
}


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM, NAME]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
def test_a_small_file_takes_little_memory(tmp_path, kind):
    make, words = FILES[kind]
    (tmp_path / NAME).write_bytes(make())
    assert (tmp_path / NAME).stat().st_size < 20 << 20
    done = run(tmp_path)
    assert words in done.stderr, done.stderr
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    code, peak, torch_imported = done.stdout.split()
    assert (code, torch_imported) == ("2", "False")
    assert int(peak) < max(LIMIT_MIB, LIMIT_RATIO * (tmp_path / NAME).stat().st_size >> 20)
    assert [each.name for each in tmp_path.iterdir()] == [NAME]


def test_a_pickle_of_one_long_text_is_read_once(tmp_path):
    value = {"w": tensor(), "x": "y" * (1 << 24)}
    assert len(pickled(value)) > 1 << 24
    write_zip(tmp_path / NAME, members_of(value))
    done = run(tmp_path)
    code, peak, _ = done.stdout.splitlines()[-1].split()
    assert code == "0", done.stderr
    assert int(peak) < 120
