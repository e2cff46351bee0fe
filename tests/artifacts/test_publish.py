"""Whole files or none."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from recon_cli.artifacts.publish import check_output, publish_bytes, publishing, reserve, write_all
from recon_cli.artifacts.staging import OutputFolder, StagedFile
from recon_cli.errors import ReconError
from recon_cli.runs.interruption import noticing_signals


@pytest.fixture(params=["unnamed", "sibling", "without links", "without locks"])
def staging(request, monkeypatch):
    """Ways to stage a file: without a name, or as a sibling, on file systems that have less and less."""
    if request.param != "unnamed":
        without_unnamed_files(monkeypatch)
    if request.param == "without links":

        def link(*_, **__):
            raise PermissionError(errno.EPERM, "no hard links here")

        monkeypatch.setattr(os, "link", link)
    if request.param == "without locks":

        def flock(*_):
            raise OSError(errno.EBADF, "no locks here")

        monkeypatch.setattr(fcntl, "flock", flock)
    return request.param


def without_unnamed_files(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse_unnamed(path, flags, *rest, **options):
        if flags & getattr(os, "O_TMPFILE", 0) == getattr(os, "O_TMPFILE", -1):
            raise OSError(errno.EOPNOTSUPP, "no unnamed files here")
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", refuse_unnamed)


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


@pytest.mark.parametrize("step", ["publish", "sync"])
def test_what_could_not_be_replaced_as_a_whole_is_as_it_was(tmp_path, staging, monkeypatch, step):
    (tmp_path / "a").write_text("old a")
    (tmp_path / "b").write_text("old b")
    publish = StagedFile.publish

    def fail(self: StagedFile | OutputFolder) -> None:
        if isinstance(self, StagedFile) and self.path.name == "a":
            return publish(self)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(StagedFile if step == "publish" else OutputFolder, step, fail)
    paths = [tmp_path / name for name in "abc"]
    with pytest.raises(ReconError, match="Input/output error"), publishing(paths, overwrite=True) as files:
        for file in files:
            write_all(file.descriptor, b"new", 0)
    assert names(tmp_path) == ["a", "b"]
    assert [(tmp_path / name).read_text() for name in "ab"] == ["old a", "old b"]


def test_old_files_are_gone_before_the_first_new_one_appears(tmp_path, staging, monkeypatch):
    for name in "ab":
        (tmp_path / name).write_text("old")
    seen = []
    publish = StagedFile.publish

    def watch(self: StagedFile) -> None:
        visible = [path for path in sorted(tmp_path.iterdir()) if not path.name.startswith(".")]
        seen.append({path.name: path.read_text() for path in visible})
        publish(self)

    monkeypatch.setattr(StagedFile, "publish", watch)
    with publishing([tmp_path / "a", tmp_path / "b"], overwrite=True) as files:
        for file in files:
            write_all(file.descriptor, b"new", 0)
    assert seen == [{} if staging == "without links" else {"a": "old"}, {"a": "new"}]
    assert {name: (tmp_path / name).read_text() for name in names(tmp_path)} == {"a": "new", "b": "new"}


def test_siblings_of_killed_writers_are_removed_by_the_next_one_and_no_others(tmp_path, monkeypatch):
    without_unnamed_files(monkeypatch)
    left = tmp_path / ".x.0123456789ab.tmp"
    others = [".x.tmp", ".x.0123456789ab.tmp2", ".y.0123456789ab.tmp", ".x.0123456789AB.tmp"]
    for path in [left, *(tmp_path / name for name in others)]:
        path.write_text("left")
    with publishing([tmp_path / "x"], overwrite=False):
        assert not left.exists()
        (held,) = set(names(tmp_path)) - set(others)
        with publishing([tmp_path / "x"], overwrite=True):
            assert held in names(tmp_path)
        (tmp_path / "x").unlink()
    assert names(tmp_path) == sorted(["x", *others])


def test_an_error_that_names_another_file_is_not_blamed_on_the_output(tmp_path):
    with pytest.raises(FileNotFoundError), publishing([tmp_path / "x"], overwrite=False):
        (tmp_path / "source").read_bytes()


def test_signals_end_the_work_between_steps_only(tmp_path, staging, monkeypatch):
    publish = StagedFile.publish

    def interrupted(self: StagedFile) -> None:
        signal.raise_signal(signal.SIGINT)
        publish(self)

    monkeypatch.setattr(StagedFile, "publish", interrupted)
    with pytest.raises(KeyboardInterrupt), publishing([tmp_path / "a", tmp_path / "b"], overwrite=False):
        pass
    assert names(tmp_path) == ["a", "b"]


def test_a_second_signal_does_not_disturb_the_tidying_up(tmp_path, staging, monkeypatch):
    close = StagedFile.close

    def interrupted(self: StagedFile) -> None:
        signal.raise_signal(signal.SIGINT)
        close(self)

    monkeypatch.setattr(StagedFile, "close", interrupted)
    with pytest.raises(SystemExit) as end, publishing([tmp_path / "a", tmp_path / "b"], overwrite=False):
        signal.raise_signal(signal.SIGTERM)
    assert end.value.code == 143
    assert names(tmp_path) == []


def test_signals_do_afterwards_what_they_did_before(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    publish_bytes(tmp_path / "x", b"", overwrite=False)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_that_somebody_notes_for_later_is_noted(tmp_path, monkeypatch):
    with noticing_signals() as interruption:
        with publishing([tmp_path / "x"], overwrite=False):
            signal.raise_signal(signal.SIGTERM)
        assert interruption.signal == signal.SIGTERM
    assert names(tmp_path) == ["x"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_files_are_published_from_other_threads_too(tmp_path):
    thread = threading.Thread(target=publish_bytes, args=(tmp_path / "x", b"one"), kwargs={"overwrite": False})
    thread.start()
    thread.join()
    assert (tmp_path / "x").read_bytes() == b"one"


@pytest.mark.parametrize("name", ["x" * 255, "\N{GRINNING FACE}" * 63, "ä" * 127, os.fsdecode(b"\xff" * 255)])
def test_names_of_any_length_and_encoding_are_written_and_replaced(tmp_path, staging, name):
    for content in (b"one", b"two"):
        publish_bytes(tmp_path / name, content, overwrite=content == b"two")
        assert (tmp_path / name).read_bytes() == content
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP])
def test_space_is_reserved_only_where_it_can_be(tmp_path, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with (tmp_path / "x").open("wb") as file:
        reserve(file.fileno(), 100)
        monkeypatch.undo()
        reserve(file.fileno(), 100)
        assert (tmp_path / "x").stat().st_blocks > 0
