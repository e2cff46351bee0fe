"""A process that branches TorchScript files, and is killed when it is to fork one, as a mistake in a graph does it."""

from __future__ import annotations

import io
import json
import os
import signal
import sys

from recon_cli.branching.programs.torchscript.__main__ import main

if __name__ == "__main__":
    order = sys.stdin.read()
    if "fork" in json.loads(order)["ways"]:
        os.kill(os.getpid(), signal.SIGSEGV)
    sys.stdin = io.StringIO(order)
    main()
