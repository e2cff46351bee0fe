"""JSON as the artifacts use it: no NaN, no duplicate keys, the same bytes for the same content."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from recon_cli.errors import ReconError, quoted

_TOO_LARGE = 1 << 64
_MANY_DIGITS = re.compile(rb"[0-9]{19}")
_COMPACT = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_SPACED = json.JSONEncoder(separators=(", ", ": "), allow_nan=False)


def parse(data: bytes, source: str) -> Any:
    """Parse a JSON document strictly.

    :param data: the document, UTF-8.
    :param source: what the document is called in messages.
    :raises ReconError: if it is no JSON, holds NaN, an infinity or a key twice, or is nested too deeply.
    """
    if not data.strip():
        raise ReconError(f"{source} is empty; a JSON document was expected")
    try:
        content = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_refuse_duplicates,
            parse_constant=_refuse_constant,
            parse_float=_refuse_overflow,
            # Few documents have numbers of so many digits, and to look at each number takes time.
            parse_int=_refuse_large if _MANY_DIGITS.search(data) else None,
        )
        if b"\\ud" in data.lower():
            # An escaped half of a character parses, but is no text that could be written again.
            json.dumps(content, ensure_ascii=False).encode("utf-8")
        return content
    except UnicodeEncodeError:
        raise ReconError(f"{source} holds text that is not Unicode: half of a surrogate pair") from None
    except UnicodeDecodeError:
        raise ReconError(f"{source} is not UTF-8 text, so it is no JSON document") from None
    except RecursionError:
        raise ReconError(f"{source} is nested too deeply to be read") from None
    except json.JSONDecodeError as error:
        raise ReconError(
            f"{source} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except ValueError as error:
        raise ReconError(f"{source} is not valid JSON: {error}") from None


def encode(content: object, *, indent: int | None) -> bytes:
    """The bytes of a JSON document, with a newline at its end; plain ASCII, so safe to print.

    :param indent: the margin of a document with a line for each of its parts, and for each of their entries; None for
        one line in all.
    """
    if indent is None:
        return _COMPACT.encode(content).encode("ascii") + b"\n"
    if not isinstance(content, dict):
        return _SPACED.encode(content).encode("ascii") + b"\n"
    # Python's own indented form is written without its accelerator, ten times as slowly.
    margin = " " * indent
    parts = [f"{margin}{_SPACED.encode(key)}: {_item_lines(value, margin)}" for key, value in content.items()]
    return ("{\n" + ",\n".join(parts) + "\n}\n").encode("ascii")


def _item_lines(value: object, margin: str) -> str:
    """A part of a document; the entries of an object, and the items of a list of objects, each have a line."""
    if isinstance(value, dict) and value:
        items = [f"{_SPACED.encode(key)}: {_SPACED.encode(item)}" for key, item in value.items()]
        inner = f",\n{margin}{margin}".join(items)
        return f"{{\n{margin}{margin}{inner}\n{margin}}}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        inner = _joined_objects(value, f",\n{margin}{margin}")
        return f"[\n{margin}{margin}{inner}\n{margin}]"
    return _SPACED.encode(value)


def _joined_objects(items: list[Any], separator: str) -> str:
    """The items of a list of objects, each encoded, with something between them."""
    # One call for all is twice as fast. If what stands between items is found no more often, it is nowhere else.
    text = _SPACED.encode(items)
    if text.count("}, {") == len(items) - 1:
        return text[1:-1].replace("}, {", f"}}{separator}{{")
    return separator.join(_SPACED.encode(item) for item in items)


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {quoted(key)} stands twice in one object")
            seen.add(key)
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number that JSON has")


def _refuse_large(text: str) -> int:
    value = int(text) if len(text) < 30 else _TOO_LARGE
    if abs(value) >= _TOO_LARGE:
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _refuse_overflow(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text} is too large")
    return value
