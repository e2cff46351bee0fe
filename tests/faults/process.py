"""`recon` in a process of its own that misfortunes befall: `python -m tests.faults.process FAULTS split ...`.

FAULTS is JSON; they are set up at the border to the system, by replacing functions of `os`, before the command starts.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def lack(module: Any, name: str, number: int, when: Callable[..., bool] = lambda *_, **__: True) -> None:
    """Let a function of the system fail, as it does on a file system that lacks what it needs."""
    real = getattr(module, name)

    def function(*arguments: Any, **options: Any) -> Any:
        if when(*arguments, **options):
            raise OSError(number, os.strerror(number))
        return real(*arguments, **options)

    setattr(module, name, function)


LACKING: dict[str, Callable[[], None]] = {
    "unnamed files": lambda: lack(
        os, "open", errno.EOPNOTSUPP, lambda _, flags, *__, **___: flags & os.O_TMPFILE == os.O_TMPFILE
    ),
    "reservation": lambda: lack(os, "posix_fallocate", errno.EOPNOTSUPP),
    "hard links": lambda: lack(os, "link", errno.EPERM),
    # As if the disk filled up after the look at it.
    "foresight": lambda: setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=1 << 40, f_frsize=1)),
    "locks": lambda: lack(fcntl, "flock", errno.ENOLCK),
}


def at_call(name: str, count: int, act: Callable[[], object]) -> None:
    """Do something just before the `count`-th call of a function of `os`."""
    real = getattr(os, name)
    calls = 0

    def function(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            act()
        return real(*arguments, **options)

    setattr(os, name, function)


def main() -> int:
    """Set up the misfortunes that the first argument names, and run the command."""
    faults = json.loads(sys.argv.pop(1))
    for what in faults.get("lacking", ()):
        LACKING[what]()
    if "signal" in faults:
        number, name, count = faults["signal"]
        at_call(name, count, lambda: os.kill(os.getpid(), number))
    if "truncate" in faults:
        path, size, name, count = faults["truncate"]
        at_call(name, count, lambda: os.truncate(path, size))
    if "touch" in faults:
        path, name, count = faults["touch"]
        at_call(name, count, lambda: os.utime(path, (1, 1)))
    if "remove" in faults:
        path, name, count = faults["remove"]
        at_call(name, count, Path(path).unlink)
    from recon_cli.cli.app import main as recon

    return recon()


if __name__ == "__main__":
    sys.exit(main())
