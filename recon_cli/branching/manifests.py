"""Finding the manifest of a branched checkpoint: in a file of its own, or inside the checkpoint."""

from __future__ import annotations

from pathlib import Path

from recon_cli.artifacts import strict_json
from recon_cli.artifacts.manifest import Manifest
from recon_cli.checkpoints.safetensors_source import SafetensorsSource
from recon_cli.checkpoints.sniffing import is_safetensors
from recon_cli.errors import ReconError, quoted


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    :param path: a manifest file, or a branched safetensors file, which carries its manifest.
    :raises ReconError: if the file is neither.
    """
    if not is_safetensors(path):
        return Manifest.read(path)
    with SafetensorsSource(path) as source:
        text = source.metadata.get(Manifest.METADATA_KEY)
    if text is None:
        raise ReconError(
            f"{quoted(path)} carries no manifest, so it was not written by `recon split`",
            "give the manifest's own file",
        )
    where = f"the manifest in {quoted(path)}"
    return Manifest.from_content(strict_json.parse(text.encode(), where), where)
