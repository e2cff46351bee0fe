"""Finding the manifest of a branched checkpoint, in a file of its own or inside the checkpoint, or the plan of one."""

from __future__ import annotations

from pathlib import Path

from recon_cli.artifacts import strict_json
from recon_cli.artifacts.document import name_of, read_json
from recon_cli.artifacts.manifest import Manifest, SplitPlan
from recon_cli.checkpoints.carried import carried_text, is_checkpoint
from recon_cli.errors import ReconError, quoted


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    :param path: a manifest file, or a branched checkpoint of any kind, which carries its manifest.
    :raises ReconError: if the file is neither.
    """
    if not is_checkpoint(path):
        return Manifest.read(path)
    found = find_manifest(path)
    if found is None:
        raise ReconError(
            f"{quoted(path)} carries no manifest, so it was not written by `recon split`",
            "give the manifest's own file; on the command line, with --manifest",
        )
    return found


def read_record(path: Path) -> Manifest | SplitPlan:
    """Read what says how a checkpoint is split, or would be.

    :param path: as for :func:`read_manifest`, or the file of a plan.
    :raises ReconError: if the file is none of these.
    """
    if is_checkpoint(path):
        return read_manifest(path)
    content = read_json(path)
    is_plan = isinstance(content, dict) and content.get("schema") == SplitPlan.SCHEMA
    return (SplitPlan if is_plan else Manifest).from_content(content, name_of(path))


def find_manifest(path: Path) -> Manifest | None:
    """The manifest inside a checkpoint; None if it carries none.

    :raises ReconError: if the checkpoint or the manifest is damaged.
    """
    text = carried_text(path, Manifest.METADATA_KEY)
    if text is None:
        return None
    where = f"the manifest in {quoted(path)}"
    return Manifest.from_content(strict_json.parse(text, where), where)
