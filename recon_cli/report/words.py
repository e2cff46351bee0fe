"""Names and numbers as the page and the pictures write them."""

from __future__ import annotations

from recon_cli.errors import number, printable

_LONG = 60


def shown(name: str) -> str:
    """A name with every invisible character, and each that could turn the text around it, as an escape sequence."""
    return printable(name)


def short(name: str) -> str:
    """A name for a sentence or an axis: without its middle if it is very long."""
    text = shown(name)
    return text if len(text) <= _LONG else f"{text[: _LONG // 2]}\u2026{text[-_LONG // 3 :]}"


def enumeration(names: tuple[str, ...], most: int = 4) -> str:
    """Names in a sentence: all of them, or if they are many the first and how many more."""
    parts = [short(name) for name in names]
    if len(parts) > most:
        parts = [*parts[: most - 1], f"{len(parts) - most + 1} more"]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def percent(share: float, digits: int = 1) -> str:
    """A share in percent; one that would round to nothing or to all keeps the digits that say otherwise."""
    text = f"{100 * share:.{digits}f}"
    if digits < 4 and 0 < share < 1 and float(text) in (0, 100):
        return percent(share, digits + 1)
    return f"{text}%"


def signed(value: float) -> str:
    """A number with as many digits as it has, and a minus sign that is one."""
    return number(value).replace("-", "\u2212")
