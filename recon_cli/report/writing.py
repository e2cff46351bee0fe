"""What `recon report` writes: the page, or a folder of pictures."""

from __future__ import annotations

from pathlib import Path

from recon_cli.artifacts.document import STANDARD_STREAM, standard_output
from recon_cli.artifacts.publish import check_output, make_folder, publish_bytes, publishing, write_all
from recon_cli.errors import ReconError, quoted
from recon_cli.report.content import content_of
from recon_cli.report.findings import findings_of, rankings_of
from recon_cli.report.materials import Materials
from recon_cli.report.page import page_of
from recon_cli.report.pictures import PictureFormat, pictures_of


def write_page(materials: Materials, severity: float | None, output: Path, *, overwrite: bool) -> int:
    """Write the page to a file, or to standard output for `-`.

    :param severity: S, to rank the scores anew; None to take the ranking that was given, or else S = -0.1.
    :returns: its size in bytes.
    :raises ReconError: if the documents do not belong together, or the file cannot be written.
    """
    if output != STANDARD_STREAM:
        check_output(output, overwrite=overwrite, inputs=materials.files)
    page = page_of(content_of(materials, severity))
    if output == STANDARD_STREAM:
        with standard_output() as stream:
            stream.write(page.decode("ascii"))
    else:
        publish_bytes(output, page, overwrite=overwrite)
    return len(page)


def write_pictures(
    materials: Materials, severity: float | None, form: PictureFormat, folder: Path, *, overwrite: bool
) -> list[Path]:
    """Write the pictures to a folder, which is made unless it is there; all of them, or none.

    :param severity: as :func:`write_page` takes it.
    :returns: the files.
    :raises ReconError: if matplotlib is missing, the documents do not belong together, or a file cannot be written.
    """
    if folder == STANDARD_STREAM:
        raise ReconError("several pictures cannot be written to standard output", "name a folder")
    if folder.exists() and not folder.is_dir():
        raise ReconError(f"{quoted(folder)} is a file, but several pictures are written", "name a folder")
    findings = findings_of(materials, rankings_of(materials, severity))
    pictures = {folder / name: data for name, data in pictures_of(findings, form).items()}
    make_folder(folder)
    for path in pictures:
        check_output(path, overwrite=overwrite, inputs=materials.files)
    with publishing(list(pictures), overwrite=overwrite) as files:
        for file, data in zip(files, pictures.values(), strict=True):
            write_all(file.descriptor, data, 0)
    return list(pictures)
