"""Archives written at offsets, against torch's own writer and what torch, `zipfile` and unzip read."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.serialization import config as serialization

from recon_cli.artifacts.publish import write_all
from recon_cli.checkpoints.archives.reading import Archive
from recon_cli.checkpoints.archives.writing import ArchiveLayout
from recon_cli.checkpoints.inputs import InputFile

LIMIT = 1 << 20


def write(path: Path, root: str, members: Mapping[str, bytes], *, order: list[str] | None = None) -> ArchiveLayout:
    """Write an archive; the data in any order, as a checkpoint is read."""
    layout = ArchiveLayout(root, [(name, len(data)) for name, data in members.items()])
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    for name in order or members:
        write_all(descriptor, members[name], layout.offsets[name])
    layout.write_headers(descriptor, {name: zlib.crc32(data) for name, data in members.items()})
    os.close(descriptor)
    assert path.stat().st_size == layout.size
    return layout


def by_torch(path: Path) -> dict[str, bytes]:
    """The members of a file that torch wrote, in its order."""
    with zipfile.ZipFile(path) as file:
        return {info.filename.partition("/")[2]: file.read(info) for info in file.infolist()}


def some_tensors() -> dict[str, torch.Tensor]:
    return {
        "weight": torch.arange(1001.0),
        "bias": torch.arange(7),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5, dtype=torch.bfloat16),
        "last": torch.ones(64, dtype=torch.uint8),
    }


@pytest.fixture
def rewritten(tmp_path: Path) -> Path:
    """A state dict of torch's whose members were written anew, without those that only some versions of torch write."""
    source = tmp_path / "source.pt"
    torch.save(some_tensors(), source)
    path = tmp_path / "some.pt"
    write(path, "archive", {name: data for name, data in by_torch(source).items() if not name.startswith(".")})
    return path


class TestReaders:
    @pytest.mark.parametrize("mmap", [False, True])
    def test_torch_loads_it(self, mmap: bool, rewritten: Path) -> None:
        loaded = torch.load(rewritten, weights_only=True, mmap=mmap)
        assert list(loaded) == list(some_tensors())
        for key, tensor in some_tensors().items():
            assert torch.equal(loaded[key], tensor)

    def test_zipfile_reads_it(self, rewritten: Path) -> None:
        with zipfile.ZipFile(rewritten) as file:
            assert file.testzip() is None
            assert file.namelist()[:3] == ["archive/data.pkl", "archive/byteorder", "archive/data/0"]
            assert file.namelist()[-1] == "archive/version"

    @pytest.mark.skipif(shutil.which("unzip") is None, reason="there is no unzip here")
    def test_unzip_reads_it(self, rewritten: Path) -> None:
        done = subprocess.run(["unzip", "-t", str(rewritten)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "No errors detected" in done.stdout


class TestLayout:
    def test_is_torchs_own_byte_for_byte(self, tmp_path: Path) -> None:
        source = tmp_path / "source.pt"
        torch.save(some_tensors(), source)
        path = tmp_path / "again.pt"
        write(path, "source", by_torch(source))
        assert path.read_bytes() == source.read_bytes()

    @pytest.mark.parametrize("mmap", [False, True])
    def test_torch_computes_offsets_in_it(self, mmap: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # torch then computes every offset, and compares it with the one that it reads.
        monkeypatch.setenv("TORCH_SERIALIZATION_DEBUG", "1")
        source = tmp_path / "source.pt"
        torch.save(some_tensors(), source)
        path = tmp_path / "a_much_longer_name_than_before.pt"
        write(path, path.stem, by_torch(source))
        with serialization.patch("load.calculate_storage_offsets", True):
            loaded = torch.load(path, weights_only=True, mmap=mmap)
        assert torch.equal(loaded["last"], some_tensors()["last"])

    def test_of_many_members_is_torchs_own(self, tmp_path: Path) -> None:
        source = tmp_path / "source.pt"
        writer = torch._C.PyTorchFileWriter(str(source))
        for i in range(65_536):
            writer.write_record(f"data/{i}", b"12345678", i % 9)
        writer.write_end_of_file()
        path = tmp_path / "again.pt"
        write(path, "source", by_torch(source))
        assert path.read_bytes() == source.read_bytes()

    def test_beyond_4_gib_is_torchs_own(self, tmp_path: Path) -> None:
        large = (1 << 32) + 5
        source, path = tmp_path / "source.pt", tmp_path / "again.pt"
        with torch.serialization.skip_data():
            torch.save({"a": torch.empty(large, dtype=torch.uint8), "b": torch.ones(3)}, source)
        if source.stat().st_blocks * 512 > 1 << 20:
            pytest.skip("this file system has no sparse files")
        archive = Archive(InputFile(source))
        extents = {name: archive.member(name) for name in archive.names}
        layout = ArchiveLayout("source", [(name, extent.bytes) for name, extent in extents.items()])
        assert dict(layout.offsets) == {name: extent.offset for name, extent in extents.items()}
        assert layout.size == source.stat().st_size

        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        for name, extent in extents.items():
            if extent.bytes < large:
                write_all(descriptor, extent.file.read(extent.offset, extent.bytes), layout.offsets[name])
        layout.write_headers(descriptor, {name: extent.crc or 0 for name, extent in extents.items()})
        os.close(descriptor)
        again = InputFile(path)
        begin = layout.offsets["data/0"]
        assert again.read(0, begin) == extents["data/0"].file.read(0, begin)
        rest = layout.size - begin - large
        assert again.read(begin + large, rest) == extents["data/0"].file.read(begin + large, rest)
        with zipfile.ZipFile(path) as file:
            assert file.getinfo("source/data/0").file_size == large
            assert file.read("source/version") == b"3\n"
        loaded = torch.load(path, weights_only=True, mmap=True)
        assert loaded["a"].shape == (large,)
        assert loaded["b"].shape == (3,)

    def test_a_name_stands_once(self) -> None:
        with pytest.raises(ValueError, match="'data/0' stands twice"):
            ArchiveLayout("archive", [("data/0", 1), ("data/0", 2)])

    def test_is_written_alike_every_time(self, tmp_path: Path) -> None:
        members = {"data.pkl": b"one", "data/0": bytes(100), "data/1": b""}
        for name in ("first", "second"):
            write(tmp_path / name, "archive", members, order=random.sample(list(members), 3))
        assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("scratch") / "some.pt"


# A name is at most 65,535 bytes long; surrogates have none.
NAMES = st.lists(
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=90).filter(
        lambda part: part not in (".", "..")
    ),
    min_size=1,
    max_size=3,
).map("/".join)
# torch knows names by their letters, whatever their case.
MEMBERS = st.lists(
    st.tuples(NAMES, st.binary(max_size=300)), max_size=8, unique_by=lambda member: member[0].encode().lower()
).map(dict)


@given(root=NAMES.filter(lambda name: "/" not in name), members=MEMBERS, seed=st.randoms())
def test_members_come_back(root: str, members: dict[str, bytes], seed: random.Random, scratch: Path) -> None:
    layout = write(scratch, root, members, order=seed.sample(list(members), len(members)))
    assert all(offset % 64 == 0 for offset in layout.offsets.values())
    with zipfile.ZipFile(scratch) as file:
        assert {info.filename: file.read(info) for info in file.infolist()} == {
            f"{root}/{name}": data for name, data in members.items()
        }
    archive = Archive(InputFile(scratch))
    assert archive.root == (root if members else None)
    assert {name: archive.read(name, LIMIT) for name in archive.names} == members
    assert {name: archive.member(name).offset for name in archive.names} == dict(layout.offsets)
