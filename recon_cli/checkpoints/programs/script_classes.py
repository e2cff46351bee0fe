"""What the classes in a TorchScript archive say of their attributes: which are parameters, and which are buffers."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from recon_cli.checkpoints.archives.reading import Archive
from recon_cli.errors import ReconError, quoted

MAX_CODE_BYTES = 1 << 26
"""More than the code of any one file takes."""

_CLASS = re.compile(r"^class ([^\s(:]+)(?:\((\w+)\))?:", re.MULTILINE)
_LIST = re.compile(r'^  __(parameters|buffers)__ = \[((?:"(?:[^"\\]|\\.)*", )*)\]$', re.MULTILINE)
_NAME = re.compile(r'"((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class ScriptClass:
    """A class.

    :ivar is_module: whether its objects are modules.
    :ivar parameters: the names of its parameters.
    :ivar buffers: those of its buffers; None if the file does not tell, as in older archives.
    """

    is_module: bool
    parameters: Collection[str] = ()
    buffers: Collection[str] | None = None


class ScriptClasses:
    """The classes of an archive, each read when it is first asked for."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._files: dict[str, dict[str, ScriptClass]] = {}

    def find(self, full_name: str) -> ScriptClass:
        """A class by the name that the pickle has for it, such as `__torch__.torch.nn.modules.linear.Linear`.

        :raises ReconError: if the archive does not hold it.
        """
        module, _, name = full_name.rpartition(".")
        if module not in self._files:
            member = f"code/{module.replace('.', '/')}.py"
            self._files[module] = self._read(member) if member in self._archive else {}
        if name not in self._files[module]:
            raise ReconError(f"{self._archive.name} is damaged: it has no class {quoted(full_name)}")
        return self._files[module][name]

    def _read(self, member: str) -> dict[str, ScriptClass]:
        try:
            text = self._archive.read(member, MAX_CODE_BYTES).decode()
        except UnicodeDecodeError:
            raise ReconError(f"{quoted(member)} of {self._archive.name} is not UTF-8 text") from None
        heads = list(_CLASS.finditer(text))
        bounds = [head.start() for head in heads] + [len(text)]
        return {head[1]: _parse(head[2], text, head.end(), end) for head, end in zip(heads, bounds[1:], strict=True)}


def _parse(base: str | None, text: str, begin: int, end: int) -> ScriptClass:
    lists = {found[1]: _names(found[2]) for found in _LIST.finditer(text, begin, end)}
    return ScriptClass(base == "Module", lists.get("parameters", ()), lists.get("buffers"))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.replace('\\"', '"').replace("\\\\", "\\") for name in _NAME.findall(text))
