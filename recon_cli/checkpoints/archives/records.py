"""The records that a zip archive is made of, field by field, and the marks that torch's archives have in them."""

from __future__ import annotations

from struct import Struct, error, unpack_from

LOCAL = Struct("<4sHHHHHIIIHH")
"""Signature, version, flags, method, time, date, CRC, packed size, size, lengths of name and extra."""
DESCRIPTOR = Struct("<4sIII")
"""Signature, CRC, packed size, size: behind the data of a member whose header was written before they were known."""
DESCRIPTOR64 = Struct("<4sIQQ")
CENTRAL = Struct("<4sHHHHHHIIIHHHHHII")
"""Signature, versions of maker and format, flags, method, time, date, CRC, packed size, size, lengths of name, extra
and comment, disk, attributes (2), the offset of the local header."""
END = Struct("<4sHHHHIIH")
"""Signature, disk, disk of the directory, its entries here and in all, its size and offset, comment's length."""
END64 = Struct("<4sQHHIIQQQQ")
"""Signature, length of the rest, versions of maker and format, and then as in `END`."""
LOCATOR64 = Struct("<4sIQI")
"""Signature, disk of the zip64 end record, its offset, number of disks."""
FIELD = Struct("<HH")
"""What begins a field of an extra: its kind and the length of the rest."""

LOCAL_SIGNATURE = b"PK\3\4"
DESCRIPTOR_SIGNATURE = b"PK\7\x08"
CENTRAL_SIGNATURE = b"PK\1\2"
END_SIGNATURE = b"PK\5\6"
END64_SIGNATURE = b"PK\6\6"
LOCATOR64_SIGNATURE = b"PK\6\7"

MAX16 = 0xFFFF
MAX32 = 0xFFFFFFFF
"""A size, an offset or (16 bits) a count that does not fit: a zip64 record says it."""

ENCRYPTED = 1 << 0
DESCRIBED = 1 << 3
"""A descriptor behind the data says what the local header leaves at 0."""
UTF8 = 1 << 11
KNOWN_FLAGS = DESCRIBED | UTF8 | 0b110  # bits 1 and 2 tell how hard deflate tried

FOLDER = 1 << 4
"""The attribute of MS-DOS that marks a folder."""

STORED = 0
DEFLATED = 8

ZIP64_FIELD = 1
PADDING_FIELD = int.from_bytes(b"FB", "little")
"""The kind of the field with which torch pads a local header so that the data is aligned."""
ALIGNMENT = 64
ZIP64_VERSION = 45


def zip64_values(extra: bytes) -> tuple[int, ...] | None:
    """The 64-bit numbers of the zip64 field of an extra, or None if it has no such field.

    :raises ValueError: if the extra is no sequence of fields, or has two such fields.
    """
    found: tuple[int, ...] | None = None
    at = 0
    while at < len(extra):
        try:
            kind, length = FIELD.unpack_from(extra, at)
        except error:
            raise ValueError from None
        at += FIELD.size
        if at + length > len(extra) or (kind == ZIP64_FIELD and found is not None):
            raise ValueError
        if kind == ZIP64_FIELD:
            found = unpack_from(f"<{length // 8}Q", extra, at)
        at += length
    return found
