"""A source that changes while it is read."""

from __future__ import annotations

import shutil

import pytest

from tests.faults.conftest import check_branched, run, snapshot, split

KINDS = ["safetensors", pytest.param("torch", marks=pytest.mark.slow)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("moment", "size"), [(("pwrite", 1), 0), (("pwrite", 5), 1 << 20), (("pwrite", 5), 9 << 20), (("pwrite", 9), 0)]
)
def test_a_source_of_another_size_is_noticed(tmp_path, sources, kind, moment, size):
    source = tmp_path / sources[kind].name
    shutil.copy(sources[kind], source)
    faults = {"truncate": (str(source), size, *moment)}
    (tmp_path / "out").mkdir()
    run(*split(source, "b.safetensors"), cwd=tmp_path / "out", faults=faults).refuses(str(source), "while it was read")
    assert snapshot(tmp_path / "out") == {}


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_that_was_written_to_is_noticed(tmp_path, sources, kind):
    source = tmp_path / sources[kind].name
    shutil.copy(sources[kind], source)
    (tmp_path / "out").mkdir()
    faults = {"touch": (str(source), "pwrite", 5)}
    run(*split(source, "b.safetensors"), cwd=tmp_path / "out", faults=faults).refuses("was changed while it was read")
    assert snapshot(tmp_path / "out") == {}


def test_a_source_that_is_removed_meanwhile_is_read_to_its_end(tmp_path, source):
    # On a file system of this kind, an open file stays whole.
    mine = tmp_path / "model.safetensors"
    shutil.copy(source, mine)
    (tmp_path / "out").mkdir()
    run(*split(mine, "b.safetensors"), cwd=tmp_path / "out", faults={"remove": (str(mine), "pwrite", 5)}).succeeds()
    check_branched(tmp_path / "out" / "b.safetensors", source)
