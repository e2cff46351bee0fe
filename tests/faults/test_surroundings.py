"""Streams, locales, variables and modes that are not what one is used to."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.conftest import Ended, check_branched, command, environment, run, snapshot, split


def shell(redirected: str, arguments: list[object], cwd: Path) -> Ended:
    """Run a line of bash in which `recon` is a split of the given arguments; the line ends with its exit code."""
    script = f'recon() {{ {shlex.join(command(*arguments))} "$@"; }}; {redirected}'
    return Ended(
        subprocess.run(
            ["bash", "-c", script], cwd=cwd, capture_output=True, text=True, check=False, env=environment(), timeout=120
        )
    )


def loud(source: Path, output: object) -> list[object]:
    """The arguments of a split that tells its result."""
    return [argument for argument in split(source, output) if argument != "--quiet"]


@pytest.mark.parametrize(
    "redirected",
    ["recon >&-", "recon <&-", "recon 2>&-", "recon <&- >&- 2>&-", "recon | head -c 0; exit ${PIPESTATUS[0]}",
     "recon --json | head -c 0; exit ${PIPESTATUS[0]}", "recon 2>/dev/full", "recon </dev/null >/dev/null 2>&1"],
)  # fmt: skip
def test_streams_that_are_closed_do_not_matter_to_the_files(tmp_path, source, redirected):
    ended = shell(redirected, loud(source, "b.safetensors"), tmp_path)
    assert (ended.code, ended.err) == (0, "")
    check_branched(tmp_path / "b.safetensors", source)
    assert len(snapshot(tmp_path)) == 2


def test_a_result_that_could_not_be_told_is_an_error_but_the_files_are_whole(tmp_path, source):
    shell("recon >/dev/full", loud(source, "b.safetensors"), tmp_path).refuses(
        "cannot write to standard output: No space left on device"
    )
    check_branched(tmp_path / "b.safetensors", source)


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full", ">/dev/full 2>/dev/full", "2> >(head -c 0)"])
def test_an_error_that_nobody_can_read_is_told_by_the_exit_code(tmp_path, source, closed):
    assert shell(f"recon {closed}", split(source, "none/b.safetensors"), tmp_path).code == 2
    assert snapshot(tmp_path) == {}


def test_wrong_usage_that_nobody_can_read_is_told_by_the_exit_code(tmp_path):
    assert shell("recon 2>/dev/full", ["split", "--unknown"], tmp_path).code == 2


@pytest.mark.parametrize(
    "variables",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"HOME": None, "TMPDIR": "/none", "TERM": None, "PATH": None},
    ],
)
def test_the_surroundings_do_not_change_a_byte(recon, tmp_path, source, variables):
    recon(*split(source, "plain.safetensors")).succeeds()
    assert run(*loud(source, "odd\u00e9.safetensors"), cwd=tmp_path, env=environment(**variables)).code == 0
    assert (tmp_path / "odd\u00e9.safetensors").read_bytes() == (tmp_path / "plain.safetensors").read_bytes()


def test_turkish_letters_change_no_name(tmp_path, source):
    # Asked in another process: the locale is one for all tests.
    asking = "import locale; locale.setlocale(locale.LC_ALL, 'tr_TR.UTF-8')"
    if subprocess.run([sys.executable, "-c", asking], stderr=subprocess.DEVNULL, check=False).returncode != 0:
        pytest.skip("the locale tr_TR.UTF-8 is not installed")
    run(*split(source, "b.SAFETENSORS"), cwd=tmp_path, env=environment(LC_ALL="tr_TR.UTF-8")).succeeds()


@pytest.mark.parametrize("mask", [0o027, 0o077, 0o777])
def test_files_get_the_mode_that_the_user_wants(tmp_path, source, mask):
    run(*split(source, "b.safetensors"), cwd=tmp_path, preexec_fn=lambda: os.umask(mask)).succeeds()
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o666 & ~mask}


def test_outputs_of_other_kinds_are_refused(recon, tmp_path, source):
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link.safetensors").symlink_to("file")
    (tmp_path / "dangling.safetensors").symlink_to("none")
    (tmp_path / "loop.safetensors").symlink_to("loop.safetensors")
    os.mkfifo(tmp_path / "pipe.safetensors")
    before = snapshot(tmp_path)
    for name in ("folder", "link", "dangling", "loop", "pipe"):
        recon(*split(source, f"{name}.safetensors")).refuses("exists already")
        recon(*split(source, f"{name}.safetensors"), "--force").refuses("not a regular file")
    for output, words in (
        ("/dev/full", "not a regular file"),
        ("/dev/null", "not a regular file"),
        ("none/b.safetensors", "does not exist"),
        ("file/b.safetensors", "is not a folder"),
        ("loop.safetensors/b.safetensors", "loop.safetensors"),
    ):
        recon(*split(source, output), "--force").refuses("cannot", words)
    assert snapshot(tmp_path) == before


def test_no_name_of_the_input_is_an_output(recon, tmp_path, source):
    mine = tmp_path / "m.safetensors"
    mine.write_bytes(source.read_bytes())
    (tmp_path / "folder").mkdir()
    os.link(mine, tmp_path / "hard.safetensors")
    (tmp_path / "soft.safetensors").symlink_to(mine)
    os.link(mine, tmp_path / "x.manifest.json")
    before = snapshot(tmp_path)
    for output in ("m.safetensors", "hard.safetensors", "soft.safetensors", "folder/../m.safetensors", mine):
        recon(*split(mine, output), "--force").refuses("is the input")
    recon(*split(mine, "x.safetensors"), "--force").refuses("`x.manifest.json` is the input")
    assert snapshot(tmp_path) == before
