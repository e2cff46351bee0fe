"""Fuzz one target for a while: `python -m tests.fuzz TARGET --seconds 60`; it needs the extra `fuzz`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["recon_cli"]):
    from tests.fuzz.targets import TARGETS, run, seeds


def main() -> None:
    """Run the fuzzer, which ends the process: 0 if it found nothing."""
    parser = argparse.ArgumentParser(description="Fuzz a parser of Recon.")
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args()
    corpus = Path(tempfile.mkdtemp(prefix="recon-corpus-"))
    for number, seed in enumerate(seeds()[options.target]):
        (corpus / str(number)).write_bytes(seed)
    target = TARGETS[options.target]
    limits = [f"-max_total_time={options.seconds}", "-max_len=8192", "-timeout=20", "-rss_limit_mb=2048"]
    atheris.Setup([sys.argv[0], *limits, str(corpus)], lambda data: run(target, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
