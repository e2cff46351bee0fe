"""Disks that are full, limited or read-only."""

from __future__ import annotations

import os
import resource

import pytest

from tests.faults.conftest import check_branched, run, snapshot, split

LACKING = [["foresight", *more] for more in ([], ["reservation"], ["reservation", "unnamed files"])]
MIB = 1 << 20


@pytest.mark.parametrize("lacking", LACKING)
def test_a_disk_that_fills_up_is_left_as_it_was(disk, source, lacking):
    # The branched file has 9 MiB.
    folder = disk("size=6m")
    run(*split(source, folder / "b.safetensors"), cwd=folder, faults={"lacking": lacking}).refuses(
        "cannot write", "b.safetensors", "No space left on device"
    )
    assert snapshot(folder) == {}
    status = os.statvfs(folder)
    assert status.f_bfree == status.f_blocks


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(disk, source):
    folder = disk("size=6m")
    run(*split(source, folder / "b.safetensors"), cwd=folder).refuses("b.safetensors", "are free")
    assert snapshot(folder) == {}


@pytest.mark.parametrize("lacking", LACKING[1:2])
def test_old_files_are_kept_on_a_disk_that_fills_up(disk, source, lacking):
    folder = disk("size=12m")
    arguments = [*split(source, folder / "b.safetensors"), "--force"]
    run(*arguments, cwd=folder).succeeds()
    before = snapshot(folder)
    run(*arguments, cwd=folder, faults={"lacking": lacking}).refuses("No space left on device")
    assert snapshot(folder) == before


def test_a_disk_without_room_for_another_name_is_left_as_it_was(disk, source):
    # The root folder takes one, an unnamed file another.
    folder = disk("size=20m,nr_inodes=2")
    run(*split(source, folder / "b.safetensors"), cwd=folder).refuses("cannot write", "No space left on device")
    assert snapshot(folder) == {}


@pytest.mark.slow
@pytest.mark.parametrize("lacking", LACKING)
def test_a_torch_file_is_split_onto_a_full_disk_no_worse(disk, sources, lacking):
    folder = disk("size=6m")
    arguments = split(sources["torch"], folder / "b.safetensors")
    run(*arguments, cwd=folder, faults={"lacking": lacking}).refuses("No space left on device")
    assert snapshot(folder) == {}


def test_a_read_only_disk_is_refused(disk, source):
    folder = disk("ro")
    run(*split(source, folder / "b.safetensors"), cwd=source.parent).refuses("is not writable")


@pytest.mark.parametrize("lacking", LACKING[:2])
def test_a_limit_of_the_size_of_files_is_no_silent_death(tmp_path, source, lacking):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 * MIB, 4 * MIB))

    arguments = split(source, "b.safetensors")
    run(*arguments, cwd=tmp_path, faults={"lacking": lacking}, preexec_fn=limit).refuses(
        "cannot write `b.safetensors`", "File too large"
    )
    assert snapshot(tmp_path) == {}


@pytest.mark.parametrize(
    "lacking",
    [
        ["unnamed files", "hard links", "reservation"],
        *(pytest.param([what], marks=pytest.mark.slow) for what in ("reservation", "unnamed files", "locks")),
    ],
)
def test_a_file_system_that_lacks_something_gets_the_whole_file(tmp_path, source, lacking):
    for force in ([], ["--force"]):
        run(*split(source, "b.safetensors"), *force, cwd=tmp_path, faults={"lacking": lacking}).succeeds()
        check_branched(tmp_path / "b.safetensors", source)
        assert sorted(snapshot(tmp_path)) == ["b.manifest.json", "b.safetensors"]
