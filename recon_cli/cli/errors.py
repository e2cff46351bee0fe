"""From exceptions to messages and exit codes.

0: done. 1: a check that the user asked for failed. 2: wrong usage, config or input. 130, 143: interrupted
by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import os
import traceback

from recon_cli.cli.output import say
from recon_cli.errors import ReconError, SharedError, quoted
from recon_cli.torchrun import is_first

DONE = 0
CHECK_FAILED = 1
WRONG_INPUT = 2
INTERRUPTED = 130
TERMINATED = 143

_TRACEBACK_HINT = "set RECON_DEBUG=1 to see where"


def report(error: BaseException) -> int:
    """Tell the user about an error, and return the exit code for it."""
    if os.environ.get("RECON_DEBUG") == "1":
        traceback.print_exception(error)
    if isinstance(error, SharedError) and not is_first():
        return WRONG_INPUT
    if isinstance(error, KeyboardInterrupt):
        say("error", "interrupted")
        return INTERRUPTED
    if isinstance(error, SystemExit):
        say("error", "terminated")
        return TERMINATED
    message, hint = _describe(error)
    say("error", message)
    if hint:
        say("hint", hint)
    return WRONG_INPUT


def _describe(error: BaseException) -> tuple[str, str | None]:
    if isinstance(error, ReconError):
        return error.message, error.hint
    if isinstance(error, OSError) and error.strerror:
        where = f": {quoted(error.filename)}" if error.filename else ""
        return f"{error.strerror}{where}", None
    if isinstance(error, MemoryError):
        return "there is not enough memory", None
    return f"Recon failed unexpectedly with {type(error).__name__}: {error}", _TRACEBACK_HINT
