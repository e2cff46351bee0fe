"""Whether the run that is to go on is the one that was begun."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recon_cli.artifacts.digests import FILE_PREFIX
from recon_cli.errors import ReconError

START_ANEW = "pass --force without --resume to start anew"


def check_same(was: Mapping[str, Any], now: Mapping[str, Any], source: str) -> None:
    """Refuse the state of another run.

    :param was: what told the run from others when it was begun.
    :param now: the same of the run that is to go on.
    :param source: what the state is called in messages.
    :raises ReconError: naming what differs.
    """
    changed = [name for name in now if was.get(name) != now[name]]
    if changed:
        differences = "; ".join(f"{name}: {_short(was.get(name))} there, {_short(now[name])} here" for name in changed)
        raise ReconError(
            f"the run in {source} is another one: {differences}", f"run it as it was begun, or {START_ANEW}"
        )


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:19]}..." if text.startswith(FILE_PREFIX) else text
