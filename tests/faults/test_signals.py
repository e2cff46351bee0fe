"""Signals in the middle of the work: nothing is left, or the whole right file stands there."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import time

import pytest

from tests.faults.conftest import LAYERS, check_branched, command, environment, run, snapshot, split

BOTH = [[], ["unnamed files"]]
# The branched file takes 9 writes of tensors and one of the header; the manifest takes the last.
WRITES = [("pwrite", 1), ("pwrite", 5), ("pwrite", 11), ("fsync", 1), ("fsync", 2)]
SIBLING = re.compile(r"\.b\.(safetensors|manifest\.json)\.[0-9a-f]{12}\.tmp")


@pytest.mark.parametrize(("number", "code", "word"), [(2, 130, "interrupted"), (15, 143, "terminated")])
@pytest.mark.parametrize(("lacking", "where"), [([], ("pwrite", 5)), (["unnamed files"], ("fsync", 1))])
def test_a_split_that_is_asked_to_stop_leaves_nothing(tmp_path, source, lacking, number, code, word, where):
    faults = {"lacking": lacking, "signal": (number, *where)}
    run(*split(source, "b.safetensors"), cwd=tmp_path, faults=faults).ends(code, word)
    assert snapshot(tmp_path) == {}


@pytest.mark.parametrize("lacking", BOTH)
def test_a_killed_split_leaves_nothing_that_the_next_one_does_not_remove(tmp_path, source, lacking):
    faults = {"lacking": lacking, "signal": (signal.SIGKILL, "pwrite", 5)}
    assert run(*split(source, "b.safetensors"), cwd=tmp_path, faults=faults).code == -signal.SIGKILL
    left = snapshot(tmp_path)
    assert len(left) == (2 if lacking else 0)
    assert all(SIBLING.fullmatch(name) for name in left)
    run(*split(source, "b.safetensors"), cwd=tmp_path).succeeds()
    check_branched(tmp_path / "b.safetensors", source)
    assert sorted(snapshot(tmp_path)) == ["b.manifest.json", "b.safetensors"]


@pytest.mark.slow
@pytest.mark.parametrize("lacking", BOTH)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_old_files_stay_until_the_new_ones_are_whole(tmp_path, source, lacking, number):
    arguments = split(source, "b.safetensors", LAYERS[0], "--force")
    run(*split(source, "b.safetensors", LAYERS[1]), cwd=tmp_path).succeeds()
    before = snapshot(tmp_path)
    for where in WRITES:
        ended = run(*arguments, cwd=tmp_path, faults={"lacking": lacking, "signal": (number, *where)})
        assert ended.code == (-number if number == signal.SIGKILL else 128 + number)
        after = snapshot(tmp_path)
        hidden = {name for name in after if SIBLING.fullmatch(name)}
        assert len(hidden) == (2 if lacking and number == signal.SIGKILL else 0)
        assert {name: content for name, content in after.items() if name not in hidden} == before
    run(*arguments, cwd=tmp_path).succeeds()
    check_branched(tmp_path / "b.safetensors", source)
    assert len(snapshot(tmp_path)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("lacking", BOTH)
@pytest.mark.parametrize(("call", "count"), [("link", 1), ("link", 2), ("link", 3), ("rename", 1), ("replace", 1)])
def test_files_that_do_not_belong_together_are_never_there_together(tmp_path, source, lacking, call, count):
    run(*split(source, "b.safetensors", LAYERS[1]), cwd=tmp_path).succeeds()
    before = snapshot(tmp_path)
    faults = {"lacking": lacking, "signal": (signal.SIGKILL, call, count)}
    ended = run(*split(source, "b.safetensors", LAYERS[0], "--force"), cwd=tmp_path, faults=faults)
    after = {name: content for name, content in snapshot(tmp_path).items() if not SIBLING.fullmatch(name)}
    if ended.code == 0:
        # This way of staging makes fewer such calls.
        assert (call, count) in (("link", 2), ("link", 3))
    elif "b.manifest.json" in after:
        assert after == before
    else:
        assert list(after) == ["b.safetensors"]
    run(*split(source, "b.safetensors", LAYERS[2], "--force"), cwd=tmp_path).succeeds()
    check_branched(tmp_path / "b.safetensors", source, LAYERS[2:3])
    assert len(snapshot(tmp_path)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("lacking", BOTH)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_at_any_moment_leaves_nothing_or_the_whole_file(tmp_path, source, lacking, number):
    whole = sorted(["b.manifest.json", "b.safetensors"])
    generator = random.Random(int(number))
    arguments = command(*split(source, "b.safetensors"), faults={"lacking": lacking})
    began = time.monotonic()
    subprocess.run(arguments, cwd=tmp_path, env=environment(), check=True)
    takes = time.monotonic() - began
    for _ in range(15):
        for path in tmp_path.iterdir():
            path.unlink()
        with subprocess.Popen(arguments, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE) as process:
            time.sleep(generator.uniform(0.5, 1.1) * takes)
            process.send_signal(number)
            process.wait()
        left = snapshot(tmp_path)
        hidden = {name for name in left if SIBLING.fullmatch(name)}
        assert not hidden or (lacking and number == signal.SIGKILL)
        if "b.safetensors" in left and "b.manifest.json" in left:
            check_branched(tmp_path / "b.safetensors", source)
            assert left.keys() - hidden == set(whole)
        elif number == signal.SIGKILL:
            # Killed in the moment between the two names: the first file is whole by itself.
            assert left.keys() - hidden <= {"b.safetensors"}
        else:
            assert left == {}
