"""The commented config that `recon init` writes."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from recon_cli.artifacts.document import STANDARD_STREAM, standard_output
from recon_cli.artifacts.publish import check_output, publish_bytes


def template() -> bytes:
    """The text of the config; it runs as it stands, on the data that ships with Recon."""
    return files("recon_cli.config").joinpath("template.yaml").read_bytes()


def write_template(path: Path, *, overwrite: bool = False) -> None:
    """Write the config to a file, or to standard output for `-`.

    :raises ReconError: if the file exists and `overwrite` is off, or cannot be written.
    """
    if path == STANDARD_STREAM:
        with standard_output() as stream:
            stream.write(template().decode())
        return
    check_output(path, overwrite=overwrite)
    publish_bytes(path, template(), overwrite=overwrite)
