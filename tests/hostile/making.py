"""Torch files made by hand: a pickle that asks for anything, and records that hold anything."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
SYSTEM = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


class Asked:
    """What a pickle asks for: a call, and what is done with the object then.

    :param state: the state that it is given; none by default.
    """

    def __init__(self, function: Any, *arguments: object, **state: object) -> None:
        self._parts = (function, arguments, state or None)

    def __reduce__(self) -> Any:
        return self._parts


class Stored:
    """A storage outside the pickle, by what the pickle says of it.

    :param name: the whole name, where it is none that torch would write.
    """

    def __init__(
        self, key: str = "0", count: object = 4, kind: object = torch.FloatStorage, name: object = None
    ) -> None:
        self.name = ("storage", kind, key, "cpu", count) if name is None else name


def tensor(
    storage: object = None, offset: object = 0, shape: object = (4,), strides: object = (1,), *rest: object
) -> Asked:
    """A tensor on a storage, by default the first four numbers of the record `0`."""
    arguments = (storage or Stored(), offset, shape, strides, *(rest or (False, {})))
    return Asked(torch._utils._rebuild_tensor_v2, *arguments)


def pickled(value: object, *, older: bool = False) -> bytes:
    """A pickle of protocol 2 in which storages are named.

    :param older: whether they are named as in files of the older form.
    """
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, 2)

    def name(node: object) -> object:
        if not isinstance(node, Stored):
            return None
        return (*node.name, None) if older and isinstance(node.name, tuple) and len(node.name) == 5 else node.name

    pickler.persistent_id = name
    pickler.dump(value)
    return stream.getvalue()


def stored_in(value: object) -> set[object]:
    """The keys of the storages that a value names."""
    keys = set()

    def note(node: object) -> object:
        if isinstance(node, Stored):
            keys.add(node.name[2] if isinstance(node.name, tuple) else None)
        return node.name if isinstance(node, Stored) else None

    pickler = pickle.Pickler(io.BytesIO(), 2)
    pickler.persistent_id = note
    pickler.dump(value)
    return keys


def members_of(value: object, records: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
    """The members of a torch archive; `value` may be a pickle already."""
    data = value if isinstance(value, bytes) else pickled(value)
    records = {"0": bytes(16)} if records is None else records
    return {"data.pkl": data, "byteorder": b"little", **{f"data/{k}": v for k, v in records.items()}, "version": b"3\n"}


def write_zip(path: Path, members: Mapping[str, bytes], root: str = "archive/", kind: int = zipfile.ZIP_STORED) -> None:
    """An archive of these members."""
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(root + name, content)


def legacy(value: object, records: Mapping[str, bytes] | None = None, size: int = 4, **lies: object) -> bytes:
    """A file of the older form.

    :param records: the storages, of elements of `size` bytes.
    :param lies: `magic`, `protocol`, `system` or `keys`.
    """
    records = {"0": bytes(16)} if records is None else records
    heads = {"magic": MAGIC, "protocol": PROTOCOL, "system": SYSTEM, **lies}
    keys = lies.get("keys", list(records))
    data = b"".join(pickle.dumps(heads[name], 2) for name in ("magic", "protocol", "system"))
    data += value if isinstance(value, bytes) else pickled(value, older=True)
    data += pickle.dumps(keys, 2)
    return data + b"".join((len(content) // size).to_bytes(8, "little") + content for content in records.values())
