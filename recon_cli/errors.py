"""What can go wrong through no fault of Recon, and the text helpers that say so."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence

_LONG = 400


class ReconError(Exception):
    """An error that its user can mend.

    :param message: one sentence: what is wrong, and where (file, key, layer, task).
    :param hint: what to do about it, if that is not plain from the message.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NonFiniteError(ReconError):
    """A loss or a gradient is NaN or infinite, so that no update can be made; `.grad` is as it was."""


class SharedError(ReconError):
    """An error of one of several processes that all of them raise; one of them tells it."""


class SharedNonFiniteError(SharedError, NonFiniteError):
    """A loss of one of several processes is NaN or infinite."""


def printable(text: str) -> str:
    """`text` with every character that could move or colour a terminal written as an escape sequence."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def quoted(name: object) -> str:
    """A name as messages show it: between backticks, harmless to a terminal, and shortened if very long."""
    text = str(name)
    if len(text) > _LONG:
        text = f"{text[: _LONG // 2]}...{text[-_LONG // 4 :]}"
    return f"`{printable(text)}`"


def listed(names: Iterable[object], limit: int = 5) -> str:
    """Names for a sentence: the first `limit` of them, and how many more there are."""
    names = list(names)
    text = ", ".join(quoted(name) for name in names[:limit])
    return text if len(names) <= limit else f"{text} and {len(names) - limit} more"


def lacking(one: object, has: Collection[str], other: object, holds: Collection[str]) -> str:
    """What each of two lacks of the other's names, as a phrase: `a` lacks `x`; `b` lacks `y`; empty if nothing.

    :param has: the names that `one` has.
    :param holds: the names that `other` has.
    """
    pairs = ((other, sorted(set(has) - set(holds))), (one, sorted(set(holds) - set(has))))
    return "; ".join(f"{quoted(who)} lacks {listed(missing)}" for who, missing in pairs if missing)


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """A question that names the nearest known word, or None if none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean {quoted(near[0])}?" if near else None


def number(value: float) -> str:
    """A number as people write it, and no digit less than it takes to tell it from others."""
    return str(int(value)) if value == value and abs(value) < 1e15 and value == int(value) else repr(value)


def counted(count: int, noun: str) -> str:
    """`1 layer`, `2 layers`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def describe(error: BaseException) -> str:
    """An error of somebody else's code as one phrase: its type and the first line of its message."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # noqa: BLE001  (somebody else's `__str__`)
        lines = []
    # A worker process of a DataLoader and TorchScript send a whole traceback; the reason stands last.
    if _is_of_worker(lines):
        return lines[-1]
    if lines and lines[0].startswith("The following operation failed in the TorchScript interpreter"):
        return lines[-1]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def raised_in_worker(error: ReconError) -> ReconError | None:
    """The error, without its hint, that a worker process of a DataLoader sent as a traceback; None for other errors."""
    lines = error.message.strip().splitlines()
    return ReconError(lines[-1].partition(": ")[2]) if _is_of_worker(lines) else None


def _is_of_worker(lines: Sequence[str]) -> bool:
    return bool(lines) and lines[0].startswith("Caught ") and "worker process" in lines[0]


def is_unicode(text: str) -> bool:
    """Whether a text can be written: Python's may hold halves of surrogate pairs."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
