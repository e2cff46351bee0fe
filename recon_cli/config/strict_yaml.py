"""YAML as configs use it: plain data, capped in size, no aliases, no key twice, and `1e-3` is a number."""

from __future__ import annotations

import re
from typing import Any

import yaml

from recon_cli.errors import ReconError, quoted

MAX_BYTES = 1 << 20
MAX_DEPTH = 50

# The C parser is some ten times faster; it is missing from a few builds of PyYAML.
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]  # the base is chosen at run time
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _problem(key_node, f"the key {quoted(key)} is not text; put it into quotes")
            if key in seen:
                raise _problem(key_node, f"the key {quoted(key)} stands twice")
            seen.add(key)
        result: dict[Any, Any] = super().construct_mapping(node, deep)
        return result


# YAML 1.1, which PyYAML reads, takes 1e-3 for text; everybody means the number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse(data: bytes, source: str) -> Any:
    """Parse a YAML document.

    :param data: the document, UTF-8.
    :param source: what the document is called in messages.
    :raises ReconError: naming the line, if it cannot be read as plain data.
    """
    if len(data) > MAX_BYTES:
        raise ReconError(f"{source} is larger than {MAX_BYTES} bytes, so it is no config")
    try:
        text = data.decode("utf-8-sig")
        _check_events(text)
        return yaml.load(text, Loader=_Loader)
    except UnicodeDecodeError:
        raise ReconError(f"{source} is not UTF-8 text") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ReconError(f"{source}{where}: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ReconError(f"{source} is not valid YAML: {str(error).splitlines()[0]}") from None


def _check_events(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Base):
        if isinstance(event, yaml.AliasEvent):
            raise _problem(event, "aliases (`*name`) are not allowed; write the value out")
        if isinstance(event, yaml.NodeEvent) and getattr(event, "tag", None) is not None:
            raise _problem(event, "tags (`!name`) are not allowed; write the value plainly")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise _problem(event, f"nested deeper than {MAX_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _problem(at: Any, problem: str) -> yaml.MarkedYAMLError:
    """An error at the place of a YAML node or event."""
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)
