"""`python -m recon_cli` is the command `recon`."""

import sys

from recon_cli.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
