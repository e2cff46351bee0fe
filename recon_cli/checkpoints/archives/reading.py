"""Zip archives as torch writes them, read as runs of bytes of an open file.

Every byte of an archive belongs to one thing: the members follow each other without a gap (header, data, descriptor),
then the directory, then the end records. So no two members overlap, nothing is hidden between them, and what torch, an
unzip program and Recon see is the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from operator import attrgetter
from typing import NamedTuple

from recon_cli.checkpoints.archives import records
from recon_cli.checkpoints.archives.directory import Entry, read_directory
from recon_cli.checkpoints.archives.records import MAX32
from recon_cli.checkpoints.archives.window import Window
from recon_cli.checkpoints.extents import FileExtent
from recon_cli.checkpoints.inputs import InputFile
from recon_cli.errors import ReconError, quoted

_MAX_RATIO = 64
"""The pickle of a large model, full of names that are nearly alike, unpacks to five times its size."""
_SMALL_BYTES = 1 << 22


class Archive:
    """An archive that fills a range of a file; its directory and the headers of its members have been checked.

    :param file: the open file.
    :param offset: where the archive begins in it.
    :param length: its bytes; all to the end of the file by default.
    :ivar name: what messages call it.
    :ivar root: the folder in which all members lie, None if the first one lies in none.
    :ivar names: the members' names within the root, in the directory's order.
    :raises ReconError: naming the archive and the member, if it is not a whole, plain archive.
    """

    def __init__(self, file: InputFile, offset: int = 0, length: int | None = None) -> None:
        self._window = Window(file, offset, length)
        self.name = self._window.name
        entries, directory = read_directory(self._window)
        self.root = _root(entries)
        self._members = _members(self._window, self.root, entries, directory)
        self.names = tuple(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def member(self, name: str) -> FileExtent:
        """A member that is stored as it is, with the CRC that the directory states.

        A CRC of 0 is what torch writes when it is told to compute none, so it is not taken for one.

        :raises ReconError: if there is no such member, or it is compressed.
        """
        entry, extent = self._find(name)
        if entry.method != records.STORED:
            raise self._window.broken(f"member {quoted(entry.name)} is compressed; torch stores tensors as they are")
        return extent

    def read(self, name: str, limit: int) -> bytes:
        """The bytes of a small member, unpacked if it is deflated, and compared with its CRC.

        :param limit: the most bytes that it may have, packed or unpacked.
        :raises ReconError: if there is no such member, or it is larger or damaged.
        """
        entry, extent = self._find(name)
        largest = max(entry.size, entry.packed)
        if largest > limit:
            raise self._window.broken(f"member {quoted(entry.name)} has {largest} bytes; at most {limit} are read")
        if entry.size > _SMALL_BYTES + _MAX_RATIO * entry.packed:
            raise self._window.broken(
                f"member {quoted(entry.name)} is {entry.packed} bytes that claim to unpack to {entry.size}"
            )
        content = extent.file.read(extent.offset, extent.bytes)
        if entry.method == records.DEFLATED:
            content = self._inflate(entry, content)
        extent.check_crc(zlib.crc32(content))
        return content

    def _find(self, name: str) -> tuple[Entry, FileExtent]:
        """A member, and its bytes as they lie in the archive; the CRC is that of the unpacked ones."""
        if name not in self._members:
            raise self._window.broken(f"it has no member {quoted(name)}")
        entry, data = self._members[name]
        crc = entry.crc if entry.crc or not entry.size else None
        return entry, FileExtent(self._window.file, self._window.offset + data, entry.packed, crc=crc, name=entry.name)

    def _inflate(self, entry: Entry, packed: bytes) -> bytes:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            # One byte more than stated is enough to see that there are more.
            content = inflater.decompress(packed, entry.size + 1)
        except zlib.error:
            content = b""
        if len(content) != entry.size or not inflater.eof or inflater.unused_data:
            raise self._window.damaged(
                f"member {quoted(entry.name)} does not unpack to the {entry.size} bytes it claims"
            )
        return content


class _Member(NamedTuple):
    """An entry, and where its data begins in the window."""

    entry: Entry
    data: int


def _root(entries: list[Entry]) -> str | None:
    """The folder of the first member, as torch takes it."""
    folder, slash, _ = entries[0].name.partition("/") if entries else ("", "", "")
    return folder if slash else None


def _members(window: Window, root: str | None, entries: list[Entry], directory: int) -> Mapping[str, _Member]:
    """The members by their names within the root; entries for folders are checked and left out."""
    begins = _data_offsets(window, entries, directory)
    prefix = f"{root}/" if root is not None else ""
    members: dict[str, _Member] = {}
    seen: set[bytes] = set()
    for entry, data in zip(entries, begins, strict=True):
        name = entry.name
        if not name.startswith(prefix):
            raise window.broken(f"member {quoted(name)} lies outside its folder {quoted(root)}")
        # torch finds members without regard to case, so which of two it would take is a matter of chance.
        folded = name.encode().lower()
        if folded in seen:
            raise window.broken(f"member {quoted(name)} stands twice, in the same letters or in other cases")
        seen.add(folded)
        if not name.endswith("/"):
            members[name[len(prefix) :]] = _Member(entry, data)
        elif entry.size:
            raise window.broken(f"the folder {quoted(name)} has content")
    return members


def _data_offsets(window: Window, entries: list[Entry], directory: int) -> list[int]:
    """Where the data of each entry begins; the members have to fill the archive up to the directory."""
    begins: dict[int, int] = {}
    end = 0
    for entry in sorted(entries, key=attrgetter("header")):
        if entry.header != end:
            raise _misplaced(window, entry, end)
        begins[entry.header], end = _follow(window, entry, directory)
    if end != directory:
        raise window.broken(f"{directory - end} bytes before its directory belong to no member")
    return [begins[entry.header] for entry in entries]


def _misplaced(window: Window, entry: Entry, end: int) -> ReconError:
    name = quoted(entry.name)
    if entry.header < end:
        return window.broken(f"member {name} overlaps another one")
    return window.broken(f"the {entry.header - end} bytes before member {name} belong to no member")


def _follow(window: Window, entry: Entry, directory: int) -> tuple[int, int]:
    """Check a member's local header and descriptor against its entry: where its data begins, and where it ends."""
    fixed = entry.header + records.LOCAL.size
    if fixed > directory:
        raise _beyond(window, entry)
    signature, _, flags, method, _, _, crc, packed, size, name_length, extra_length = records.LOCAL.unpack_from(
        *window.near(entry.header, records.LOCAL.size)
    )
    if signature != records.LOCAL_SIGNATURE:
        raise window.broken(f"member {quoted(entry.name)} has no header where the directory says")
    data = fixed + name_length + extra_length
    end = data + entry.packed
    if end > directory:
        raise _beyond(window, entry)
    block, at = window.near(fixed, name_length + extra_length)
    extra_at = at + name_length
    if block[at:extra_at] != entry.name.encode():
        raise _disagreeing(window, entry, "name")
    if flags != entry.flags or method != entry.method:
        raise _disagreeing(window, entry, "kind")
    try:
        wide = records.zip64_values(block[extra_at : extra_at + extra_length])
    except ValueError:
        raise window.broken(f"the extra fields of member {quoted(entry.name)} are damaged") from None
    described = flags & records.DESCRIBED
    expected = (0, 0, 0) if described else (entry.crc, entry.packed, entry.size)
    if wide is not None or (crc, packed, size) != expected:
        _check_sums(window, entry, crc, (size, packed), wide or ())
    if described:
        end = _check_descriptor(window, entry, end, directory, wide=wide is not None)
    return data, end


def _check_sums(window: Window, entry: Entry, crc: int, sizes: tuple[int, int], wide: tuple[int, ...]) -> None:
    """A local header states a member's sum and sizes, or leaves them at 0 if a descriptor states them.

    :param wide: the numbers of the header's zip64 field: the sizes first, or only the header's offset, as torch has it.
    """
    unknown = {0} if entry.flags & records.DESCRIBED else set()
    known = (entry.size, entry.packed)
    if len(wide) > 1:
        agreeing = _agree(wide, known, unknown) and _agree(sizes, known, {*unknown, MAX32})
    else:
        agreeing = _agree(sizes, known, unknown)
    if not agreeing:
        raise _disagreeing(window, entry, "size")
    if not _agree((crc,), (entry.crc,), unknown):
        raise _disagreeing(window, entry, "checksum")


def _agree(stated: tuple[int, ...], known: tuple[int, ...], unknown: set[int]) -> bool:
    return all(value == true or value in unknown for value, true in zip(stated, known, strict=False))


def _check_descriptor(window: Window, entry: Entry, at: int, directory: int, *, wide: bool) -> int:
    descriptor = records.DESCRIPTOR64 if wide else records.DESCRIPTOR
    if at + descriptor.size > directory:
        raise _beyond(window, entry)
    if descriptor.unpack_from(*window.near(at, descriptor.size)) != (
        records.DESCRIPTOR_SIGNATURE, entry.crc, entry.packed, entry.size,
    ):  # fmt: skip
        raise window.broken(f"what follows the data of member {quoted(entry.name)} disagrees with the directory")
    return at + descriptor.size


def _beyond(window: Window, entry: Entry) -> ReconError:
    return window.broken(f"member {quoted(entry.name)} reaches into the directory or past the end")


def _disagreeing(window: Window, entry: Entry, what: str) -> ReconError:
    return window.broken(f"member {quoted(entry.name)} has another {what} in its header than in the directory")
