"""The directory at an archive's end, read strictly.

Python's `zipfile` reads it kindly: it skips what stands before an archive or behind it, and keeps the last of several
members of one name. What another reader would see differently is refused here.
"""

from __future__ import annotations

from typing import NamedTuple

from recon_cli.checkpoints.archives import records
from recon_cli.checkpoints.archives.records import MAX16, MAX32
from recon_cli.checkpoints.archives.window import Window
from recon_cli.errors import ReconError, counted, quoted

MAX_DIRECTORY_BYTES = 1 << 28
"""Millions of members; a larger one is no checkpoint's, and would take gigabytes of memory."""


class Entry(NamedTuple):
    """What the directory says about a member.

    :ivar packed: the bytes it takes in the archive; `size` those it has when they are unpacked.
    :ivar header: where its local header begins.
    """

    name: str
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    header: int


class _End(NamedTuple):
    """What an end record says: the number of this disk, and where the directory is.

    :ivar first: the disk on which the directory begins.
    :ivar here: its entries on this disk, and `entries` those in all.
    """

    disk: int
    first: int
    here: int
    entries: int
    size: int
    offset: int


_LIMITS = _End(MAX16, MAX16, MAX16, MAX16, MAX32, MAX32)


def read_directory(window: Window) -> tuple[list[Entry], int]:
    """The entries in their order, and where the directory begins.

    :raises ReconError: if the end records or the directory are not as they have to be.
    """
    end = _read_end(window)
    data = window.read(end.offset, end.size)
    entries = []
    at = 0
    for _ in range(end.entries):
        entry, at = _read_entry(window, data, at)
        entries.append(entry)
    if at != end.size:
        raise window.broken(f"its directory has other than the {counted(end.entries, 'member')} that it claims")
    return entries, end.offset


def _read_end(window: Window) -> _End:
    at = window.length - records.END.size
    if at < 0 or window.read(at, 4) != records.END_SIGNATURE:
        raise _no_end(window)
    _, *fields, comment = records.END.unpack(window.read(at, records.END.size))
    if comment:
        raise window.damaged(f"it lacks the comment of {comment} bytes that it claims")
    end = _End(*fields)
    locator_at = at - records.LOCATOR64.size
    if locator_at >= 0 and window.read(locator_at, 4) == records.LOCATOR64_SIGNATURE:
        at, end = _read_end64(window, locator_at, end)
    if end.disk or end.first or end.here != end.entries:
        raise _in_parts(window)
    if end.size < end.entries * records.CENTRAL.size or end.offset < end.entries * records.LOCAL.size:
        raise window.broken(f"it claims {counted(end.entries, 'member')}, more than it has room for")
    if end.offset + end.size != at:
        raise window.broken(
            f"its directory should begin at byte {end.offset} and end at byte {end.offset + end.size}, not {at},"
            " so bytes were put in or left out"
        )
    if end.size > MAX_DIRECTORY_BYTES:
        raise window.broken(f"its directory takes {end.size} bytes, more than any checkpoint's")
    return end


def _read_end64(window: Window, locator_at: int, short: _End) -> tuple[int, _End]:
    """Where the zip64 end record begins, and what it says."""
    _, disk, at, disks = records.LOCATOR64.unpack(window.read(locator_at, records.LOCATOR64.size))
    if disk or disks > 1:
        raise _in_parts(window)
    found = locator_at - records.END64.size
    if at != found or window.read(at, 4) != records.END64_SIGNATURE:
        raise window.broken(
            f"its zip64 end record should begin at byte {at}, not {found}, so bytes were put in or left out"
        )
    _, length, _, _, *fields = records.END64.unpack(window.read(at, records.END64.size))
    end = _End(*fields)
    if length != records.END64.size - 12 or any(
        value not in (full, limit) for value, full, limit in zip(short, end, _LIMITS, strict=True)
    ):
        raise window.broken("its two end records disagree")
    return at, end


def _in_parts(window: Window) -> ReconError:
    return window.broken("it is one part of an archive on several disks")


def _no_end(window: Window) -> ReconError:
    longest = records.END.size + MAX16
    begin = max(0, window.length - longest)
    tail = window.read(begin, window.length - begin)
    at = tail.rfind(records.END_SIGNATURE)
    if 0 <= at < len(tail) - records.END.size:
        return window.broken(f"{counted(len(tail) - at - records.END.size, 'byte')} follow its end record")
    return window.damaged("the directory that ends an archive is missing")


def _read_entry(window: Window, data: bytes, at: int) -> tuple[Entry, int]:
    name_at = at + records.CENTRAL.size
    if name_at > len(data):
        raise window.damaged("its directory ends within an entry")
    (
        signature, _, version, flags, method, _, _, crc, packed, size, name_length, extra_length, comment_length,
        disk, _, attributes, header,
    ) = records.CENTRAL.unpack_from(data, at)  # fmt: skip
    extra_at = name_at + name_length
    end = extra_at + extra_length + comment_length
    if signature != records.CENTRAL_SIGNATURE or end > len(data):
        raise window.damaged(f"its directory is no sequence of entries at its byte {at}")
    name = _decode(window, data[name_at:extra_at])
    if MAX32 in (packed, size, header) or extra_length:
        extra = data[extra_at : extra_at + extra_length]
        size, packed, header = _widen(window, name, extra, [size, packed, header])
    if disk:
        raise _in_parts(window)
    if attributes & records.FOLDER and not name.endswith("/"):
        # torch would give back memory that nothing was read into.
        raise window.broken(f"member {quoted(name)} is marked as a folder")
    if flags & records.ENCRYPTED:
        raise window.broken(f"member {quoted(name)} is encrypted")
    if flags & ~records.KNOWN_FLAGS or version & 0xFF > records.ZIP64_VERSION:
        raise window.broken(f"member {quoted(name)} uses a feature of zip that torch does not have")
    if method not in (records.STORED, records.DEFLATED):
        raise window.broken(f"member {quoted(name)} is compressed by method {method}, which torch does not have")
    if method == records.STORED and packed != size:
        raise window.broken(f"member {quoted(name)} is stored as it is, yet takes {packed} bytes for its {size}")
    return Entry(name, flags, method, crc, packed, size, header), end


def _decode(window: Window, name: bytes) -> str:
    try:
        text = name.decode()
    except UnicodeDecodeError:
        raise window.broken(f"the name of member {quoted(name.decode(errors='replace'))} is no UTF-8") from None
    framed = f"/{text.removesuffix('/')}/"
    if "//" in framed or "/./" in framed or "/../" in framed or "\0" in text:
        raise window.broken(f"member {quoted(text)} has a name that is no plain path")
    return text


def _widen(window: Window, name: str, extra: bytes, values: list[int]) -> list[int]:
    """Size, packed size and offset, with the zip64 field's numbers for those that do not fit into 32 bits."""
    try:
        wide = iter(records.zip64_values(extra) or ())
        return [next(wide) if value == MAX32 else value for value in values]
    except (ValueError, StopIteration):
        raise window.broken(f"the extra fields of member {quoted(name)} are damaged") from None
