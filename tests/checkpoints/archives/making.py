"""Zip archives made by hand, field by field, so that any field can lie."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Part:
    """A member; what it says about itself is true unless it is told otherwise.

    :ivar local: fields of the local header that lie, `central` those of the directory.
    :ivar tail: what follows the data.
    """

    name: str | bytes
    data: bytes = b""
    flags: int = 0
    method: int = 0
    size: int | None = None
    local: dict[str, Any] = field(default_factory=dict)
    central: dict[str, Any] = field(default_factory=dict)
    tail: bytes = b""

    def fields(self, lies: dict[str, Any], **truths: Any) -> dict[str, Any]:
        name = self.name if isinstance(self.name, bytes) else self.name.encode()
        size = len(self.data) if self.size is None else self.size
        known = {
            "signature": b"PK", "version": 20, "flags": self.flags, "method": self.method, "crc": zlib.crc32(self.data),
            "packed": len(self.data), "size": size, "name": name, "extra": b"", "disk": 0,
        }  # fmt: skip
        return {**known, **truths, **lies}

    def local_header(self) -> bytes:
        f = self.fields(self.local)
        return (
            f["signature"] + b"\3\4"
            + struct.pack(
                "<HHHIIIIHH", f["version"], f["flags"], f["method"], 0, f["crc"], f["packed"], f["size"],
                len(f["name"]), len(f["extra"]),
            )
            + f["name"] + f["extra"]
        )  # fmt: skip

    def entry(self, at: int) -> bytes:
        f = self.fields(self.central, header=at)
        return (
            f["signature"] + b"\1\2"
            + struct.pack(
                "<HHHHIIIIHHHHHII", 20, f["version"], f["flags"], f["method"], 0, f["crc"], f["packed"], f["size"],
                len(f["name"]), len(f["extra"]), 0, f["disk"], 0, 0, f["header"],
            )
            + f["name"] + f["extra"]
        )  # fmt: skip


def archive_of(
    *parts: Part, before: bytes = b"", between: bytes = b"", records64: bytes = b"", after: bytes = b"", **lies: int
) -> bytes:
    """An archive; `lies` are fields of its end record: disk, first, here, entries, size, offset, comment."""
    body, entries = before, b""
    for part in parts:
        entries += part.entry(len(body))
        body += part.local_header() + part.data + part.tail + between
    truths = {
        "disk": 0, "first": 0, "here": len(parts), "entries": len(parts), "size": len(entries), "offset": len(body),
        "comment": 0,
    }  # fmt: skip
    return body + entries + records64 + b"PK\5\6" + struct.pack("<HHHHIIH", *{**truths, **lies}.values()) + after


def records64(
    *,
    at: int,
    entries: int,
    size: int,
    offset: int,
    length: int = 44,
    disks: int = 1,
    disk: int = 0,
    here: int | None = None,
    stated_at: int | None = None,
) -> bytes:
    """A zip64 end record that begins at a byte, and its locator."""
    here = entries if here is None else here
    end = b"PK\6\6" + struct.pack("<QHHIIQQQQ", length, 45, 45, disk, 0, here, entries, size, offset)
    return end + b"PK\6\7" + struct.pack("<IQI", 0, at if stated_at is None else stated_at, disks)


def descriptor(data: bytes, *, wide: bool = False) -> bytes:
    return b"PK\7\x08" + struct.pack("<IQQ" if wide else "<III", zlib.crc32(data), len(data), len(data))


def deflated(name: str, content: bytes, **lies: Any) -> Part:
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(content) + packer.flush()
    sums = {"crc": zlib.crc32(content), **lies}
    return Part(name, packed, method=8, size=len(content), local=sums, central=sums)
