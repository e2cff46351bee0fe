"""Whole files or none."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recon_cli.artifacts.publish import StagedFile, check_output, publish_bytes, publishing, write_all
from recon_cli.errors import ReconError


@pytest.fixture(params=["unnamed", "sibling"])
def staging(request, monkeypatch):
    """Both ways to stage a file: without a name, and as a sibling where the file system has no unnamed files."""
    if request.param == "sibling":
        real = os.open

        def refuse_unnamed(path, flags, *rest, **options):
            if flags & getattr(os, "O_TMPFILE", 0) == getattr(os, "O_TMPFILE", -1):
                raise OSError(errno.EOPNOTSUPP, "no unnamed files here")
            return real(path, flags, *rest, **options)

        monkeypatch.setattr(os, "open", refuse_unnamed)
    return request.param


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_with_its_content_and_the_users_mode(tmp_path, staging):
    before = os.umask(0o027)
    try:
        publish_bytes(tmp_path / "x", b"one", overwrite=False)
    finally:
        os.umask(before)
    assert (tmp_path / "x").read_bytes() == b"one"
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640
    assert names(tmp_path) == ["x"]


def test_nothing_is_seen_until_the_file_is_whole(tmp_path):
    with publishing([tmp_path / "x"], overwrite=False) as (file,):
        write_all(file.descriptor, b"half", 0)
        assert names(tmp_path) == []
    assert names(tmp_path) == ["x"]


def test_an_existing_file_is_kept_unless_it_may_be_replaced(tmp_path, staging):
    publish_bytes(tmp_path / "x", b"one", overwrite=False)
    with pytest.raises(ReconError, match="exists already"):
        publish_bytes(tmp_path / "x", b"two", overwrite=False)
    assert (tmp_path / "x").read_bytes() == b"one"
    publish_bytes(tmp_path / "x", b"three", overwrite=True)
    assert (tmp_path / "x").read_bytes() == b"three"
    assert names(tmp_path) == ["x"]


def test_an_error_leaves_nothing(tmp_path, staging):
    with pytest.raises(ZeroDivisionError), publishing([tmp_path / "x", tmp_path / "y"], overwrite=False):
        raise ZeroDivisionError
    assert names(tmp_path) == []


def test_files_that_belong_together_appear_together_or_not_at_all(tmp_path, staging):
    with pytest.raises(ReconError, match="`.*b` exists"), publishing([tmp_path / "a", tmp_path / "b"], overwrite=False):
        (tmp_path / "b").write_text("somebody else's, a moment ago")
    assert names(tmp_path) == ["b"]


def test_of_racing_writers_one_wins(tmp_path):
    code = (
        "import sys; from pathlib import Path; from recon_cli.artifacts.publish import publish_bytes;"
        "sys.stdin.read(); publish_bytes(Path('x'), sys.argv[1].encode() * 100_000, overwrite=False)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(number)],
            cwd=tmp_path, env=environment, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )
        for number in range(8)
    ]  # fmt: skip
    for process in processes:
        process.communicate()
    assert sorted(process.returncode for process in processes) == [0] + [1] * 7
    content = (tmp_path / "x").read_bytes()
    assert len(content) == 100_000
    assert len(set(content)) == 1
    assert names(tmp_path) == ["x"]


def test_a_killed_writer_leaves_nothing(tmp_path):
    code = (
        "import time; from pathlib import Path; from recon_cli.artifacts.publish import *\n"
        "with publishing([Path('x')], overwrite=False) as (file,):\n"
        "    write_all(file.descriptor, b'z' * 1_000_000, 0); print(flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while names(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert names(tmp_path) == []


def test_outputs_that_cannot_be_are_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("file")
    os.link(tmp_path / "file", tmp_path / "hard")
    os.mkfifo(tmp_path / "pipe")
    for path, overwrite, words in (
        ("file", False, "exists already"),
        ("folder", True, "not a regular file"),
        ("link", True, "not a regular file"),
        ("pipe", True, "not a regular file"),
        ("none/x", False, "does not exist"),
        ("file/x", False, "is not a folder"),
    ):
        with pytest.raises(ReconError, match=words):
            check_output(tmp_path / path, overwrite=overwrite)
    for path in ("file", "hard", "link"):
        with pytest.raises(ReconError, match="is the input"):
            check_output(tmp_path / path, overwrite=True, inputs=[tmp_path / "file"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ReconError, match="is not writable"):
        check_output(tmp_path / "x", overwrite=False)
    tmp_path.chmod(0o700)


def test_a_folder_that_cannot_be_written_is_refused_even_to_root(recon):
    # No file can be made in /proc by anybody.
    recon("init", "/proc/recon.yaml").refuses("/proc")


def test_a_staged_file_can_be_taken_back(tmp_path):
    with StagedFile(tmp_path / "x", overwrite=False) as file:
        file.publish()
        file.withdraw()
    assert names(tmp_path) == []
