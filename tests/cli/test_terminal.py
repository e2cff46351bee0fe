"""What somebody at a terminal sees."""

from __future__ import annotations

import argparse
import fcntl
import math
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import torch


def on_a_terminal(
    *arguments: object, cwd: Path, watched: str = "stderr", columns: int = 80, **variables: str
) -> tuple[int, str]:
    """Run `recon` with a terminal of so many columns as one of its streams; return its exit code and what was shown."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {
        **os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": str(columns), "TERM": "xterm",
        "OMP_NUM_THREADS": "1", **variables,
    }  # fmt: skip
    command = [sys.executable, "-m", "recon_cli", *(str(argument) for argument in arguments)]
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, watched: theirs}
    with subprocess.Popen(command, cwd=cwd, stdin=subprocess.DEVNULL, env=environment, **streams) as process:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 65536):
                shown += chunk
        except OSError:
            pass  # the other end is closed
        finally:
            os.close(ours)
        return process.wait(), shown.decode(errors="replace")


def test_a_profile_shows_its_progress_and_the_layers_that_lead(config, tmp_path):
    path = config(profile={"iterations": 40})
    code, shown = on_a_terminal("profile", path, "-o", "s.json", cwd=tmp_path)
    assert code == 0
    for words in ("profiling on cpu", "/40", "leading layers", "cos < -0.1", "body.0"):
        assert words in shown


def test_quiet_is_quiet_on_a_terminal_too(config, tmp_path):
    assert on_a_terminal("profile", config(), "-o", "s.json", "--quiet", cwd=tmp_path) == (0, "")


def test_what_is_in_a_file_fits_a_terminal_of_80_columns(tmp_path):
    state = {f"encoder.layers.{n}.attention.{'out_projection' * (n + 1)}.weight": torch.zeros(64, 64) for n in range(4)}
    torch.save({"epoch": 1, "model": state, "args": argparse.Namespace(a=1)}, tmp_path / "m.pt")
    code, shown = on_a_terminal("inspect", "m.pt", cwd=tmp_path, watched="stdout")
    assert code == 1
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).replace("\r", "").splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in shown
    for words in ("4,096", "16.00 KB", "[64, 64]", "argparse.Namespace", "would be refused"):
        assert words in shown


@pytest.mark.parametrize("command", ["rank", "tasks"])
def test_a_terminal_that_is_too_narrow_cuts_off_no_digit_and_no_name(command, scores, tmp_path):
    shown = []
    for columns in (200, 20):
        code, text = on_a_terminal(command, scores, cwd=tmp_path, watched="stdout", columns=columns)
        assert code == 0
        # But for styles, lines, bars and blanks.
        shown.append(re.sub(r"\x1b\[[0-9;]*m|─+|[#.]{4,}|\s", "", text))
    assert shown[1] == shown[0]


def test_a_split_shows_how_far_it_is_if_that_takes_a_while(tmp_path):
    header = b'{"a.w":{"dtype":"F32","shape":[25000000],"data_offsets":[0,100000000]}}'
    with (tmp_path / "m.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 100_000_000)
    split = ["split", "m.safetensors", "--layers", "a", "--tasks", "x,y,z", "-o", "b.safetensors"]
    code, shown = on_a_terminal(*split, cwd=tmp_path)
    assert code == 0
    for words in ("note: writing 286.11 MB", "MiB", "/s"):
        assert words in shown
    code, shown = on_a_terminal(*split, "--force", "--quiet", cwd=tmp_path)
    assert (code, shown) == (0, "")


def test_where_conflicts_are_reads_on_every_kind_of_terminal_and_in_a_log(recon, scores, tmp_path):
    layers = recon("rank", scores, "-S", "0", "--json").succeeds().document["layers"]
    found = [layer["score"] / layers[0]["score"] for layer in sorted(layers, key=lambda layer: layer["position"])]

    def strip(marks: str) -> str:
        return f"1 |{''.join(marks[math.ceil(share * (len(marks) - 1))] for share in found)}| {len(found)}"

    def shown(**variables: str) -> tuple[list[str], str]:
        variables = {"NO_COLOR": "", "PYTHONIOENCODING": "utf-8", **variables}
        code, text = on_a_terminal("rank", scores, "-S", "0", cwd=tmp_path, watched="stdout", **variables)
        assert code == 0
        lines = re.sub(r"\x1b\[[0-9;]*m", "", text).replace("\r", "").splitlines()
        assert max(map(len, lines)) <= 80
        return lines, text

    blocks, shades = strip(" ▁▂▃▄▅▆▇█"), strip(" .:-=+*#%@")
    assert shades in recon("rank", scores, "-S", "0").out.splitlines()
    lines, text = shown()
    assert blocks in lines
    assert "\x1b[31m" in text
    without, text = shown(NO_COLOR="1")
    assert without == lines
    assert "\x1b[31m" not in text
    for plain in ({"TERM": "dumb"}, {"PYTHONIOENCODING": "ascii"}):
        assert shades in shown(**plain)[0]
