"""Archives read strictly, against literal archives, `zipfile` and files that torch wrote."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.serialization import config as serialization

from recon_cli.checkpoints.archives.reading import Archive
from recon_cli.checkpoints.extents import Ring
from recon_cli.checkpoints.inputs import InputFile
from recon_cli.errors import ReconError
from tests.checkpoints.archives.making import Part, archive_of, deflated, descriptor, records64

LIMIT = 1 << 20
DESCRIBED = 8
ONE = Part("a/x", b"one")
TWO = Part("a/y", b"second")
UNKNOWN = {"crc": 0, "packed": 0, "size": 0}


def open_bytes(folder: Path, content: bytes) -> Archive:
    path = folder / "some.pt"
    path.write_bytes(content)
    return Archive(InputFile(path))


def contents(archive: Archive) -> dict[str, bytes]:
    """Every member's bytes, of the stored ones as of the others, with their sums checked."""
    return {name: archive.read(name, LIMIT) for name in archive.names}


def stored(archive: Archive, name: str) -> bytes:
    return b"".join(bytes(piece) for piece in archive.member(name).checked_pieces(Ring()))


def zipped(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        return {info.filename.partition("/")[2]: file.read(info) for info in file.infolist()}


def wide(part: Part, **local: object) -> Part:
    """The same member with its sizes in a zip64 field of the local header."""
    extra = struct.pack("<HHQQ", 1, 16, len(part.data), len(part.data))
    return Part(part.name, part.data, local={"packed": 0xFFFFFFFF, "size": 0xFFFFFFFF, "extra": extra, **local})


def end64(**lies: int) -> bytes:
    """An archive of one member with zip64 end records; `lies` are fields of those."""
    plain = archive_of(ONE)
    truths = {"at": len(plain) - 22, "entries": 1, "size": 49, "offset": 36}
    return archive_of(ONE, records64=records64(**{**truths, **lies}))


BROKEN = {
    # The end of the file.
    "is cut off or damaged: the directory that ends an archive is missing": b"PK\3\4" + bytes(100),
    "`some.pt` is cut off or damaged": b"PK",
    "5 bytes follow its end record": archive_of(ONE, after=b"extra"),
    "7 bytes follow its end record": archive_of(ONE, after=b"comment", comment=7),
    "lacks the comment of 9 bytes": archive_of(ONE, comment=9),
    "on several disks": archive_of(ONE, disk=1),
    "is one part of an archive": archive_of(ONE, first=2),
    "part of an archive on several disks": archive_of(ONE, here=0),
    "one part of an archive on several": archive_of(Part("a/x", central={"disk": 3})),
    "claims 1001 members, more than it has room for": archive_of(ONE, here=1001, entries=1001),
    "has other than the 1 member that it claims": archive_of(ONE, TWO, here=1, entries=1),
    "should begin at byte 35 and end at byte 84, not 85": archive_of(ONE, offset=35),
    "should begin at byte 36 and end at byte 85, not 89, so bytes were put in or left out": archive_of(
        ONE, records64=b"more"
    ),
    "zip64 end record should begin at byte 84, not 85": end64(stated_at=84),
    "two end records disagree": end64(entries=2),
    "its two end records disagree": end64(length=45),
    "it is one part of an archive on several disks": end64(disks=2),
    "t is one part of an archive on several disks": archive_of(
        ONE, disk=0xFFFF, records64=records64(at=85, entries=1, size=49, offset=36, disk=1)
    ),
    # The directory.
    "no sequence of entries at its byte 49": archive_of(ONE, Part("a/y", b"second", central={"signature": b"QK"})),
    "`a/x` is encrypted": archive_of(Part("a/x", b"one", flags=1)),
    "`a/x` uses a feature of zip": archive_of(Part("a/x", b"one", flags=1 << 5)),
    "`a/y` uses a feature of zip that torch does not have": archive_of(ONE, Part("a/y", central={"version": 63})),
    "`a/x` is compressed by method 14": archive_of(Part("a/x", b"one", method=14)),
    "stored as it is, yet takes 3 bytes for its 4": archive_of(Part("a/x", b"one", size=4)),
    "the name of member `a/\ufffd` is no UTF-8": archive_of(Part(b"a/\xff", b"one")),
    "extra fields of member `a/x` are damaged": archive_of(Part("a/x", b"one", central={"extra": b"FB\5\0abc"})),
    "the extra fields of member `a/x` are damaged": archive_of(Part("a/x", b"one", central={"size": 0xFFFFFFFF})),
    "fields of member `a/y` are damaged": archive_of(ONE, Part("a/y", central={"extra": b"\1\0\0\0\1\0\0\0"})),
    "fields of member `a/z` are damaged": archive_of(ONE, Part("a/z", central={"extra": b"abc"})),
    # Names.
    "`a/x` stands twice": archive_of(ONE, TWO, ONE),
    "`a/X` stands twice, in the same letters or in other cases": archive_of(ONE, Part("a/X", b"second")),
    "`a/b/` stands twice": archive_of(Part("a/b/"), Part("a/b/")),
    "the folder `a/c/` has content": archive_of(Part("a/c/", b"one")),
    "`b/y` lies outside its folder `a`": archive_of(ONE, Part("b/y", b"second")),
    "`y` lies outside its folder `a`": archive_of(ONE, Part("y", b"second")),
    "`a/../y` has a name that is no plain": archive_of(ONE, Part("a/../y", b"second")),
    "`/a/y` has a name that is no plain": archive_of(Part("/a/y", b"second")),
    "`a/./y` has a name that is no plain path": archive_of(Part("a/./y", b"second")),
    "`` has a name that is no plain": archive_of(Part("", b"second")),
    "`a/y\\x00z` has a name that is no plain": archive_of(ONE, Part("a/y\0z", b"second")),
    # Places.
    "the 4 bytes before member `a/x` belong to no member": archive_of(ONE, before=b"MZ\0\0"),
    "the 5 bytes before member `a/y` belong to no member": archive_of(ONE, TWO, between=b"extra"),
    "2 bytes before its directory belong to no member": archive_of(Part("a/x", b"one", tail=b"!!")),
    "`a/y` overlaps another one": archive_of(ONE, Part("a/y", b"second", central={"header": 0})),
    "`a/z` overlaps another one": archive_of(
        Part("a/x", Part("a/z", b"hidden").local_header() + b"hidden"), Part("a/z", b"hidden", central={"header": 33})
    ),
    "`a/x` reaches into the directory": archive_of(Part("a/x", b"one", central={"packed": 99, "size": 99})),
    "`a/x` reaches into the directory or past the end": archive_of(
        Part("a/x", b"one", central={"packed": 1 << 31, "size": 1 << 31})
    ),
    "`a/y` reaches into the directory or past the end": archive_of(Part("a/y", b"one", flags=DESCRIBED)),
    "`a/y` has no header where the directory says": archive_of(ONE, Part("a/y", b"second", local={"signature": b"QK"})),
    # What is said twice.
    "`a/x` has another name in its header": archive_of(Part("a/x", b"one", local={"name": b"a/z"})),
    "`a/x` has another kind in its header": archive_of(Part("a/x", b"one", local={"method": 8})),
    "`a/y` has another kind in its header than in the directory": archive_of(
        Part("a/y", b"one", local={"flags": DESCRIBED})
    ),
    "`a/x` has another size in its header": archive_of(Part("a/x", b"one", local={"packed": 2})),
    "`a/y` has another size in its header": archive_of(Part("a/y", b"one", local={"size": 0})),
    "`a/z` has another size in its header": archive_of(
        wide(Part("a/z", b"one"), extra=struct.pack("<HHQQ", 1, 16, 3, 4))
    ),
    "`a/u` has another size in its header": archive_of(wide(Part("a/u", b"one"), size=7)),
    "`a/v` has another size in its header": archive_of(wide(Part("a/v", b"one"), extra=b"")),
    "`a/x` has another checksum in its header": archive_of(Part("a/x", b"one", local={"crc": 1})),
    "follows the data of member `a/x` disagrees": archive_of(
        Part("a/x", b"one", flags=DESCRIBED, local=UNKNOWN, tail=descriptor(b"two"))
    ),
    "`a/w` are damaged": archive_of(Part("a/w", b"one", local={"extra": b"FB\5\0abc"})),
}


@pytest.mark.parametrize("words", BROKEN)
def test_refuses_what_is_no_whole_and_plain_archive(words: str, tmp_path: Path) -> None:
    with pytest.raises(ReconError) as caught:
        open_bytes(tmp_path, BROKEN[words])
    message = caught.value.message.replace(str(tmp_path / "some.pt"), "some.pt")
    assert message.startswith("`some.pt` is ")
    assert words in message
    assert "\n" not in message


def test_refuses_a_directory_that_no_memory_holds(tmp_path: Path) -> None:
    path = tmp_path / "some.pt"
    size = 300 << 20
    with path.open("wb") as file:
        file.seek(30 + size)
        file.write(archive_of(here=1, entries=1, size=size, offset=30))
    with pytest.raises(ReconError, match=f"directory takes {size} bytes, more than any checkpoint's"):
        Archive(InputFile(path))


class TestLiteralArchives:
    def test_gives_members_in_the_order_of_the_directory(self, tmp_path: Path) -> None:
        archive = open_bytes(tmp_path, archive_of(TWO, ONE))
        assert archive.root == "a"
        assert archive.names == ("y", "x")
        assert contents(archive) == {"y": b"second", "x": b"one"}
        assert "x" in archive
        assert "a/x" not in archive

    def test_a_member_is_a_range_of_the_file(self, tmp_path: Path) -> None:
        extent = open_bytes(tmp_path, archive_of(ONE, TWO)).member("y")
        assert (extent.offset, extent.bytes, extent.crc) == (36 + 33, 6, zlib.crc32(b"second"))
        assert extent.name == f"`a/y` of `{tmp_path / 'some.pt'}`"

    def test_has_no_root_where_the_first_member_lies_in_no_folder(self, tmp_path: Path) -> None:
        archive = open_bytes(tmp_path, archive_of(Part("version", b"1"), Part("data/x", b"one")))
        assert archive.root is None
        assert contents(archive) == {"version": b"1", "data/x": b"one"}

    def test_may_be_empty(self, tmp_path: Path) -> None:
        archive = open_bytes(tmp_path, archive_of())
        assert (archive.root, archive.names) == (None, ())

    def test_leaves_out_entries_for_folders(self, tmp_path: Path) -> None:
        archive = open_bytes(tmp_path, archive_of(Part("a/"), ONE, Part("a/b/"), Part("a/b/z", b"3")))
        assert contents(archive) == {"x": b"one", "b/z": b"3"}

    @pytest.mark.parametrize(
        "part",
        [
            Part("a/x", b"one", flags=DESCRIBED, local=UNKNOWN, tail=descriptor(b"one")),
            Part("a/x", b"one", flags=DESCRIBED, tail=descriptor(b"one")),
            Part(
                "a/x", b"one", flags=DESCRIBED, local={**UNKNOWN, "extra": struct.pack("<HHQ", 1, 8, 12345)},
                tail=descriptor(b"one", wide=True),
            ),
            Part(
                "a/x", b"one", flags=DESCRIBED, local={**UNKNOWN, "extra": struct.pack("<HHQQ", 1, 16, 3, 3)},
                tail=descriptor(b"one", wide=True),
            ),
            wide(Part("a/x", b"one")),
            Part("a/x", b"one", central={"size": 0xFFFFFFFF, "extra": b"FB\1\0Z\1\0\x08\0\3\0\0\0\0\0\0\0"}),
        ],
    )  # fmt: skip
    def test_reads_every_way_to_state_sizes(self, part: Part, tmp_path: Path) -> None:
        archive = open_bytes(tmp_path, archive_of(part, TWO))
        assert contents(archive) == {"x": b"one", "y": b"second"}

    @pytest.mark.parametrize(
        "lies", [{}, {"entries": 0xFFFF, "here": 0xFFFF, "size": 0xFFFFFFFF, "offset": 0xFFFFFFFF}]
    )
    def test_reads_zip64_end_records(self, lies: dict[str, int], tmp_path: Path) -> None:
        records = records64(at=85, entries=1, size=49, offset=36)
        assert contents(open_bytes(tmp_path, archive_of(ONE, records64=records, **lies))) == {"x": b"one"}


class TestContents:
    def test_unpacks_a_deflated_member(self, tmp_path: Path) -> None:
        archive = open_bytes(tmp_path, archive_of(deflated("a/code.py", b"text " * 100)))
        assert archive.read("code.py", 500) == b"text " * 100

    def test_a_deflated_member_is_no_tensor(self, tmp_path: Path) -> None:
        archive = open_bytes(tmp_path, archive_of(deflated("a/data/0", bytes(400))))
        with pytest.raises(ReconError, match="member `a/data/0` is compressed; torch stores tensors as they are"):
            archive.member("data/0")

    @pytest.mark.parametrize("part", [deflated("a/x", bytes(501)), Part("a/x", bytes(501))])
    def test_reads_no_more_than_the_limit(self, part: Part, tmp_path: Path) -> None:
        archive = open_bytes(tmp_path, archive_of(part))
        with pytest.raises(ReconError, match="member `a/x` has 501 bytes; at most 500 are read"):
            archive.read("x", 500)

    def test_a_bomb_unpacks_no_further_than_it_claims(self, tmp_path: Path) -> None:
        archive = open_bytes(tmp_path, archive_of(deflated("a/x", bytes(1 << 20), size=100)))
        with pytest.raises(ReconError, match="`a/x` does not unpack to the 100 bytes it claims"):
            archive.read("x", LIMIT)

    @pytest.mark.parametrize("claimed", [99, 101])
    def test_unpacks_to_what_it_claims(self, claimed: int, tmp_path: Path) -> None:
        archive = open_bytes(tmp_path, archive_of(deflated("a/x", bytes(range(100)), size=claimed)))
        with pytest.raises(ReconError, match=f"does not unpack to the {claimed} bytes it claims"):
            archive.read("x", LIMIT)

    @pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\3\0more", b"\1\3\0\xfc\xff12"])
    def test_refuses_damaged_deflated_bytes(self, data: bytes, tmp_path: Path) -> None:
        archive = open_bytes(tmp_path, archive_of(Part("a/x", data, method=8, size=0)))
        with pytest.raises(ReconError, match="does not unpack to the 0 bytes it claims"):
            archive.read("x", LIMIT)

    @pytest.mark.parametrize("read", [stored, lambda archive, name: archive.read(name, LIMIT)])
    def test_compares_sums(self, read: Callable[[Archive, str], bytes], tmp_path: Path) -> None:
        content = archive_of(ONE, TWO).replace(b"second", b"seCond")
        archive = open_bytes(tmp_path, content)
        assert read(archive, "x") == b"one"
        with pytest.raises(ReconError, match="`a/y` of `.*some.pt` is damaged"):
            read(archive, "y")

    def test_compares_the_sum_of_unpacked_bytes(self, tmp_path: Path) -> None:
        archive = open_bytes(tmp_path, archive_of(deflated("a/x", b"text", crc=1)))
        with pytest.raises(ReconError, match="`a/x` of `.*` is damaged"):
            archive.read("x", LIMIT)

    def test_names_what_is_missing(self, tmp_path: Path) -> None:
        archive = open_bytes(tmp_path, archive_of(ONE))
        for ask in (archive.member, lambda name: archive.read(name, LIMIT)):
            with pytest.raises(ReconError, match="some.pt` is not a valid torch archive: it has no member `data.pkl`"):
                ask("data.pkl")


class TestNested:
    def test_reads_an_archive_within_a_file(self, tmp_path: Path) -> None:
        inner = archive_of(ONE, TWO)
        path = tmp_path / "outer"
        path.write_bytes(b"before" + inner + b"after")
        archive = Archive(InputFile(path), 6, len(inner))
        assert contents(archive) == {"x": b"one", "y": b"second"}
        assert stored(archive, "y") == b"second"
        assert archive.member("y").offset == 6 + 36 + 33

    def test_names_the_place_in_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "outer"
        path.write_bytes(b"before" + archive_of(ONE))
        with pytest.raises(ReconError, match="^the archive at byte 5 of `.*outer` is not a valid torch archive: "):
            Archive(InputFile(path), 5)

    @pytest.mark.parametrize(("offset", "length"), [(0, 108), (107, 1), (108, None), (-1, 5), (0, -1)])
    def test_refuses_a_place_beyond_the_file(self, offset: int, length: int | None, tmp_path: Path) -> None:
        path = tmp_path / "outer"
        path.write_bytes(archive_of(ONE))
        with pytest.raises(ReconError, match="it reaches beyond the end of the file"):
            Archive(InputFile(path), offset, length)

    def test_does_not_read_what_lies_behind_its_place(self, tmp_path: Path) -> None:
        path = tmp_path / "outer"
        path.write_bytes(archive_of(ONE))
        with pytest.raises(ReconError, match="is cut off or damaged"):
            Archive(InputFile(path), 0, 90)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(5, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.relu(self.layer(x))


def save_state(path: Path) -> None:
    torch.save({**Net().state_dict(), "empty": torch.zeros(0), "scalar": torch.tensor(1.0)}, path)


def save_script(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Net()), path, _extra_files={"notes/a.txt": "text"})


def save_program(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(Net(), (torch.ones(2, 5),)), path)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files of the three kinds that torch writes."""
    folder = tmp_path_factory.mktemp("models")
    save_state(folder / "state.pt")
    save_script(folder / "script.pt")
    save_program(folder / "program.pt2")
    return folder


class TestFilesOfTorch:
    @pytest.mark.parametrize("name", ["state.pt", "script.pt", "program.pt2"])
    def test_reads_what_zipfile_reads(self, name: str, models: Path) -> None:
        archive = Archive(InputFile(models / name))
        assert archive.root == name.partition(".")[0]
        assert contents(archive) == zipped(models / name)

    def test_extents_are_the_tensors(self, tmp_path: Path) -> None:
        path = tmp_path / "some.pt"
        tensor = torch.arange(1000.0)
        torch.save({"a": tensor}, path)
        extent = Archive(InputFile(path)).member("data/0")
        assert extent.file.read(extent.offset, extent.bytes) == tensor.numpy().tobytes()
        assert extent.crc == zlib.crc32(tensor.numpy().tobytes())
        assert extent.offset % 64 == 0

    def test_reads_archives_of_a_distributed_checkpoint(self, tmp_path: Path) -> None:
        whole, places = b"", []
        for value in (torch.ones(3), torch.zeros(5)):
            buffer = io.BytesIO()
            torch.save(value, buffer)
            places.append((len(whole), buffer.tell()))
            whole += buffer.getvalue()
        path = tmp_path / "__0_0.distcp"
        path.write_bytes(whole)
        file = InputFile(path)
        first, second = (Archive(file, *place) for place in places)
        assert stored(first, "data/0") == torch.ones(3).numpy().tobytes()
        assert stored(second, "data/0") == bytes(20)

    def test_a_program_holds_archives(self, models: Path) -> None:
        outer = Archive(InputFile(models / "program.pt2"))
        extent = outer.member("data/sample_inputs/model.pt")
        inner = Archive(extent.file, extent.offset, extent.bytes)
        assert stored(inner, "data/0") == torch.ones(2, 5).numpy().tobytes()

    def test_takes_no_sum_for_one_that_was_not_computed(self, tmp_path: Path) -> None:
        path = tmp_path / "some.pt"
        with serialization.patch("save.compute_crc32", False):
            torch.save({"a": torch.ones(3)}, path)
        archive = Archive(InputFile(path))
        assert archive.member("data/0").crc is None
        assert stored(archive, "data/0") == torch.ones(3).numpy().tobytes()
        assert archive.read("byteorder", LIMIT) == sys.byteorder.encode()

    def test_reads_other_alignments(self, tmp_path: Path) -> None:
        path = tmp_path / "some.pt"
        with serialization.patch("save.storage_alignment", 4096):
            torch.save({"a": torch.ones(3)}, path)
        archive = Archive(InputFile(path))
        assert archive.member("data/0").offset % 4096 == 0
        assert contents(archive) == zipped(path)

    def test_reads_more_members_than_16_bits_count(self, tmp_path: Path) -> None:
        path = tmp_path / "some.pt"
        writer = torch._C.PyTorchFileWriter(str(path))
        for i in range(65_600):
            writer.write_record(f"data/{i}", i.to_bytes(8, "little"), 8)
        writer.write_end_of_file()
        archive = Archive(InputFile(path))
        assert len(archive.names) > 65_600
        assert stored(archive, "data/65599") == (65_599).to_bytes(8, "little")

    def test_reads_members_of_more_than_4_gib(self, tmp_path: Path) -> None:
        path = tmp_path / "some.pt"
        with torch.serialization.skip_data():
            torch.save({"a": torch.empty((1 << 32) + 5, dtype=torch.uint8), "b": torch.ones(3)}, path)
        if path.stat().st_blocks * 512 > 1 << 20:
            pytest.skip("this file system has no sparse files")
        archive = Archive(InputFile(path))
        assert archive.member("data/0").bytes == (1 << 32) + 5
        assert archive.member("data/1").offset > 1 << 32
        assert archive.read("version", LIMIT) == b"3\n"


class TestFilesOfOthers:
    def test_reads_files_of_zipfile(self, tmp_path: Path) -> None:
        path = tmp_path / "some.pt"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a/x", b"one")
            file.writestr("a/y", b"text " * 99, zipfile.ZIP_DEFLATED)
            with file.open("a/z", "w", force_zip64=True) as member:
                member.write(b"third")
        assert contents(Archive(InputFile(path))) == {"x": b"one", "y": b"text " * 99, "z": b"third"}

    def test_reads_what_zipfile_wrote_into_a_pipe(self, tmp_path: Path) -> None:
        class Pipe(io.RawIOBase):
            def writable(self) -> bool:
                return True

            def write(self, data: bytes) -> int:  # type: ignore[override]
                written.extend(data)
                return len(data)

        written = bytearray()
        with zipfile.ZipFile(Pipe(), "w") as file:
            file.writestr("a/x", b"one")
            file.writestr("a/y", b"text " * 99, zipfile.ZIP_DEFLATED)
            with file.open("a/z", "w", force_zip64=True) as member:
                member.write(b"third")
        assert contents(open_bytes(tmp_path, bytes(written))) == {"x": b"one", "y": b"text " * 99, "z": b"third"}

    def test_reads_files_repacked_by_a_zip_program(self, tmp_path: Path) -> None:
        (tmp_path / "a/data").mkdir(parents=True)
        (tmp_path / "a/data/0").write_bytes(b"one")
        (tmp_path / "a/data.pkl").write_bytes(b"two")
        try:
            subprocess.run(["zip", "-0", "-q", "-r", "some.pt", "a"], cwd=tmp_path, check=True)
        except FileNotFoundError:
            pytest.skip("there is no zip program here")
        assert contents(Archive(InputFile(tmp_path / "some.pt"))) == {"data/0": b"one", "data.pkl": b"two"}


@pytest.fixture(scope="module")
def samples(models: Path) -> list[bytes]:
    """Valid archives of different make."""
    by_hand = archive_of(ONE, TWO, deflated("a/z", b"text " * 20), wide(Part("a/w", b"fourth")))
    return [by_hand, end64(), (models / "state.pt").read_bytes(), (models / "script.pt").read_bytes()]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "some.pt"


def test_every_part_of_an_archive_is_refused(samples: list[bytes], scratch: Path) -> None:
    content = samples[0]
    for cut in range(1, len(content)):
        for part in (content[:cut], content[cut:]):
            scratch.write_bytes(part)
            with pytest.raises(ReconError, match=r"some.pt` is "):
                Archive(InputFile(scratch))


@given(data=st.data())
def test_a_mutated_archive_is_refused_or_read_as_zipfile_reads_it(
    data: st.DataObject, samples: list[bytes], scratch: Path
) -> None:
    content = bytearray(data.draw(st.sampled_from(samples)))
    for _ in range(data.draw(st.integers(1, 3))):
        # Most of what can break an archive stands at its end.
        where = st.one_of(st.integers(0, len(content) - 1), st.integers(max(0, len(content) - 200), len(content) - 1))
        at = data.draw(where)
        new = data.draw(st.one_of(st.sampled_from([0, 1, 0xFF]), st.integers(0, 255)).map(lambda value: bytes([value])))
        content[at : at + data.draw(st.sampled_from([1, 1, 1, 0, 2]))] = new
    scratch.write_bytes(content)
    try:
        archive = Archive(InputFile(scratch))
        found = contents(archive)
    except ReconError:
        return
    root = f"{archive.root}/" if archive.root is not None else ""
    with zipfile.ZipFile(scratch) as file:
        assert {root + name: value for name, value in found.items()} == {
            info.filename: file.read(info) for info in file.infolist() if not info.is_dir()
        }


def test_reading_needs_no_torch() -> None:
    code = "import sys, recon_cli.checkpoints.archives.reading; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
