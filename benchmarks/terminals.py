"""Pictures of what commands show at a terminal of 80 columns, with what they say on standard error as well:

    python -m benchmarks.terminals demo_results/scores.json census.json

The first is of `make demo`, the second what `recon profile sample_configs/census_income_small.yaml` writes. The same
scores give the same pictures.
"""

from __future__ import annotations

import argparse
import fcntl
import io
import os
import pty
import shutil
import struct
import subprocess
import sys
import termios
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.text import Text

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
COLUMNS, LINES = 80, 100

# Rich's own form names a server that fonts are loaded from.
_SVG = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
  font: {char_height}px "DejaVu Sans Mono", Menlo, Consolas, monospace; line-height: {line_height}px; white-space: pre;
}}
.{unique_id}-title {{ font: bold 18px sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def shown(command: str, folder: Path) -> str:
    """What a terminal shows of a command of Recon that runs in a folder, escape sequences included.

    :raises subprocess.CalledProcessError: if it fails.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    settings = {"TERM": "xterm", "PYTHONPATH": str(Path(__file__).parents[1])}
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}
    arguments = [sys.executable, "-m", "recon_cli", *command.split()]
    with subprocess.Popen(
        arguments, cwd=folder, env={**kept, **settings}, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        found = b""
        try:
            while chunk := os.read(ours, 65536):
                found += chunk
        except OSError:
            pass  # the other end is closed
        finally:
            os.close(ours)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, arguments, found)
    return found.decode().replace("\r\n", "\n")


def picture(command: str, folder: Path) -> str:
    """The same as an SVG picture, below the command as it is typed."""
    console = Console(
        record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="standard", highlight=False
    )
    console.print(f"$ recon {command}", style="bold", markup=False)
    console.print(Text.from_ansi(shown(command, folder)))
    return console.export_svg(title="recon", code_format=_SVG, unique_id="terminal")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("census", type=Path)
    arguments = parser.parse_args()
    made = (
        ("terminal_rank", "rank scores.json", arguments.demo),
        ("terminal_stages", "compare-rankings scores.json --stages", arguments.demo),
        ("terminal_tasks", "tasks census.json", arguments.census),
    )
    for name, command, scores in made:
        with TemporaryDirectory() as folder:
            shutil.copy(scores, Path(folder) / command.split()[1])
            (PICTURES / f"{name}.svg").write_text(picture(command, Path(folder)), encoding="utf-8")


if __name__ == "__main__":
    main()
