"""File names of any length and encoding."""

from __future__ import annotations

import os

import pytest

from tests.faults.conftest import check_branched, run, snapshot, split

# `.manifest.json` is two bytes longer than `.safetensors`.
LONGEST = 255 - len(".manifest.json")


@pytest.mark.parametrize("stem", ["x" * LONGEST, "\N{GRINNING FACE}" * (LONGEST // 4), os.fsdecode(b"\xff" * LONGEST)])
def test_names_as_long_as_they_may_be_are_written(tmp_path, source, stem):
    output = f"{stem}.safetensors"
    run(*split(source, output), cwd=tmp_path, faults={"lacking": ["unnamed files"]}).succeeds()
    assert sorted(snapshot(tmp_path)) == [f"{stem}.manifest.json", output]
    (tmp_path / output).rename(tmp_path / "b.safetensors")
    (tmp_path / f"{stem}.manifest.json").rename(tmp_path / "b.manifest.json")
    check_branched(tmp_path / "b.safetensors", source)


@pytest.mark.parametrize(
    "output",
    ["x" * (255 - 12) + ".safetensors", "x" * 256, "d/" * 2100 + "b.safetensors", "d" * 256 + "/b.safetensors"],
    ids=["manifest", "name", "path", "folder"],
)
def test_names_that_are_too_long_are_refused(recon, tmp_path, source, output):
    recon(*split(source, output)).refuses("cannot write", "File name too long")
    assert snapshot(tmp_path) == {}


def test_a_source_with_too_long_a_path_is_refused(recon, tmp_path, source):
    recon(*split("d/" * 2100 + "m.safetensors", "b.safetensors")).refuses("File name too long", "d/d/d/")
    assert snapshot(tmp_path) == {}
