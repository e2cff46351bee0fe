"""Zip archives written at offsets that are known before anything is written, byte for byte as torch writes them.

torch may find a tensor by computing its offset instead of reading it, so the layout is torch's own: every member's data
begins at a multiple of 64, and its sum and sizes stand in a descriptor behind it. Dates are empty, so the same members
give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from struct import pack
from typing import NamedTuple

from recon_cli.artifacts.publish import write_all
from recon_cli.checkpoints.archives import records
from recon_cli.checkpoints.archives.records import MAX16, MAX32

MAKER = 0x031E
"""The version of the program that made the archive, as torch's writer states it."""


class _Place(NamedTuple):
    """A member: its full name, its bytes, and where its local header and its data begin."""

    name: bytes
    size: int
    header: int
    data: int

    def zip64(self, packed: int) -> bytes:
        """The zip64 field of a header: what does not fit into its 32 bits."""
        values = [self.size, packed] if self.size >= MAX32 else []
        values += [self.header] if self.header >= MAX32 else []
        if not values:
            return b""
        return records.FIELD.pack(records.ZIP64_FIELD, 8 * len(values)) + pack(f"<{len(values)}Q", *values)

    @property
    def flags(self) -> int:
        """An empty member has no descriptor."""
        return records.UTF8 | (records.DESCRIBED if self.size else 0)

    def local(self) -> bytes:
        """The local header, padded to where the data begins; torch leaves the packed size open there as well."""
        zip64 = self.zip64(0)
        padding = self.data - self.header - records.LOCAL.size - len(self.name) - len(zip64)
        header = records.LOCAL.pack(
            records.LOCAL_SIGNATURE, 0, self.flags, records.STORED, 0, 0, 0, 0, 0, len(self.name), len(zip64) + padding
        )
        filler = padding - records.FIELD.size
        return header + self.name + zip64 + records.FIELD.pack(records.PADDING_FIELD, filler) + b"Z" * filler

    def descriptor(self, crc: int) -> bytes:
        """What follows the data."""
        if not self.size:
            return b""
        kind = records.DESCRIPTOR64 if self.zip64(0) else records.DESCRIPTOR
        return kind.pack(records.DESCRIPTOR_SIGNATURE, crc, self.size, self.size)

    def entry(self, crc: int) -> bytes:
        """The member's entry in the directory."""
        zip64 = self.zip64(self.size)
        size, header = min(self.size, MAX32), min(self.header, MAX32)
        fixed = records.CENTRAL.pack(
            records.CENTRAL_SIGNATURE, 0, 0, self.flags, records.STORED, 0, 0, crc, size, size,
            len(self.name), len(zip64), 0, 0, 0, 0, header,
        )  # fmt: skip
        return fixed + self.name + zip64


class ArchiveLayout:
    """Where everything in an archive will be.

    :param root: the folder in which all members lie.
    :param members: names within the root, all different, and bytes, in the order in which they are written; torch's own
        is `data.pkl`, `byteorder`, `data/0`, `data/1` and so on, `version`.
    :ivar offsets: where the data of each member begins, by its name within the root.
    :ivar size: the bytes of the whole archive.
    :raises ValueError: if a name stands twice.
    """

    def __init__(self, root: str, members: Iterable[tuple[str, int]]) -> None:
        self._places: dict[str, _Place] = {}
        end = 0
        for name, size in members:
            if name in self._places:
                raise ValueError(f"the member {name!r} stands twice")
            place = _place(f"{root}/{name}".encode(), size, end)
            self._places[name] = place
            end = place.data + size + len(place.descriptor(0))
        self.offsets: Mapping[str, int] = {name: place.data for name, place in self._places.items()}
        self._directory = end
        self.size = end + sum(len(place.entry(0)) for place in self._places.values()) + len(self._end(0))

    def write_headers(self, descriptor: int, crcs: Mapping[str, int]) -> None:
        """Write everything but the members' data: headers, descriptors, the directory and the end records.

        :param descriptor: the file, open for writing.
        :param crcs: the CRC-32 of each member's data, by its name within the root.
        """
        between = b""
        end = 0
        for name, place in self._places.items():
            write_all(descriptor, between + place.local(), end)
            between, end = place.descriptor(crcs[name]), place.data + place.size
        directory = b"".join(place.entry(crcs[name]) for name, place in self._places.items())
        write_all(descriptor, between + directory + self._end(len(directory)), end)

    def _end(self, size: int) -> bytes:
        """The end records; zip64's stand there always, as in torch's archives."""
        count, offset = len(self._places), self._directory
        end64 = records.END64.pack(
            records.END64_SIGNATURE,
            records.END64.size - 12,
            MAKER,
            records.ZIP64_VERSION,
            0,
            0,
            count,
            count,
            size,
            offset,
        )
        locator = records.LOCATOR64.pack(records.LOCATOR64_SIGNATURE, 0, offset + size, 1)
        short = min(count, MAX16)
        end = records.END.pack(records.END_SIGNATURE, 0, 0, short, short, min(size, MAX32), min(offset, MAX32), 0)
        return end64 + locator + end


def _place(name: bytes, size: int, header: int) -> _Place:
    """The data begins at the next multiple of 64 behind its header, which holds at least an empty field for padding."""
    least = _Place(name, size, header, 0)
    begin = header + records.LOCAL.size + len(name) + len(least.zip64(0)) + records.FIELD.size
    return least._replace(data=-(-begin // records.ALIGNMENT) * records.ALIGNMENT)
