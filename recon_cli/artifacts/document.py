"""What all JSON artifacts have in common: a schema name, strict reading, and whole files."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, TextIO, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import to_jsonable_python

from recon_cli.artifacts import strict_json
from recon_cli.artifacts.publish import check_output, publish_bytes
from recon_cli.errors import ReconError, printable, quoted

STANDARD_STREAM = Path("-")
"""The path that stands for standard input or standard output."""

MAX_BYTES = 1 << 30

AnyDocument = TypeVar("AnyDocument", bound="Document")


class Record(BaseModel):
    """A part of a document: typed, immutable, and nothing in it that its schema does not name."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Document(Record):
    """A JSON document that one command writes and another reads; its first field names its schema."""

    SCHEMA: ClassVar[str]
    """The schema's name and version, as `"schema"` holds it."""
    MADE_BY: ClassVar[str]
    """The command that writes such documents."""
    INDENT: ClassVar[int | None] = 2

    def to_json(self) -> dict[str, Any]:
        """The document as plain data, `"schema"` first."""
        return {"schema": self.SCHEMA, **self.model_dump(mode="json")}

    @classmethod
    def encode(cls, fields: Mapping[str, object]) -> bytes:
        """The bytes of a document with these fields; they are not checked, which takes a third of the time.

        :param fields: all of them, as records or plain data.
        """
        ordered = {name: fields[name] for name in cls.model_fields}
        return strict_json.encode({"schema": cls.SCHEMA, **to_jsonable_python(ordered)}, indent=cls.INDENT)

    def to_bytes(self) -> bytes:
        """The document as it stands in a file: the same content gives the same bytes."""
        return strict_json.encode(self.to_json(), indent=self.INDENT)

    def _repr_html_(self) -> str:
        """The document as a notebook shows it."""
        # Nobody but a notebook asks for this, and what makes it stands on the documents.
        from recon_cli.reporting.html import document_html

        return document_html(self)

    def write(self, path: str | Path, *, overwrite: bool = False, inputs: Iterable[Path] = ()) -> None:
        """Write the document to a file, which appears whole or not at all, or to standard output for `-`.

        :param inputs: files that it was made from; it replaces none of them.
        :raises ReconError: if the file exists and `overwrite` is off, or cannot be written.
        """
        path = Path(path)
        if path == STANDARD_STREAM:
            with standard_output() as stream:
                stream.write(self.to_bytes().decode("ascii"))
            return
        check_output(path, overwrite=overwrite, inputs=inputs)
        publish_bytes(path, self.to_bytes(), overwrite=overwrite)

    @classmethod
    def read(cls: type[AnyDocument], path: str | Path) -> AnyDocument:
        """Read and validate a document.

        :param path: its file, or `-` for standard input.
        :raises ReconError: if the file is missing, broken, foreign, or of another schema.
        """
        return cls.from_content(read_json(Path(path)), name_of(Path(path)))

    @classmethod
    def from_content(cls: type[AnyDocument], content: object, source: str) -> AnyDocument:
        """Validate a document that was read already.

        :param content: what the JSON holds.
        :param source: what the document is called in messages.
        """
        if not isinstance(content, dict) or "schema" not in content:
            raise ReconError(
                f"{source} is not a {cls.SCHEMA} document: it names no schema", f"`{cls.MADE_BY}` writes one"
            )
        found = content["schema"]
        if found != cls.SCHEMA:
            raise ReconError(
                f"{source} has the schema {quoted(found)}, but {quoted(cls.SCHEMA)} was expected",
                f"`{cls.MADE_BY}` writes one",
            )
        try:
            # Python's lists become the schema's tuples only outside the strict mode, so JSON is validated as JSON.
            body = strict_json.encode({k: v for k, v in content.items() if k != "schema"}, indent=None)
            return cls.model_validate_json(body)
        except ValidationError as error:
            raise ReconError(f"{source} is not a valid {cls.SCHEMA} document: {first_problem(error)}") from None


@contextlib.contextmanager
def standard_output() -> Iterator[TextIO]:
    """Standard output; a reader that leaves early (`recon rank ... | head`) is no error, and the rest is dropped.

    :raises ReconError: if it cannot be written, on a full disk for instance.
    """
    try:
        yield sys.stdout
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_standard_output()
    except OSError as error:
        _drop_standard_output()
        raise ReconError(f"cannot write to standard output: {error.strerror}") from None


def _drop_standard_output() -> None:
    # What it still holds would fail once more when the process ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def first_problem(error: ValidationError) -> str:
    """The first of the problems that pydantic found, as a phrase, and how many more there are."""
    problems = error.errors(include_url=False)
    first = problems[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
    return f"{quoted(where)}: {printable(message)}{more}" if where else f"{printable(message)}{more}"


def name_of(path: Path) -> str:
    """What a path is called in messages."""
    return "standard input" if path == STANDARD_STREAM else quoted(path)


def read_json(path: Path) -> Any:
    """Read any JSON file strictly; `-` is standard input.

    :raises ReconError: if it cannot be read or is no JSON.
    """
    return strict_json.parse(read_bytes(path), name_of(path))


def read_bytes(path: Path) -> bytes:
    """The bytes of a document; `-` is standard input.

    :raises ReconError: if it cannot be read, or is too large for a document.
    """
    if path == STANDARD_STREAM:
        if sys.stdin is None:
            raise ReconError("standard input is closed, so nothing can be read from it")
        data = sys.stdin.buffer.read(MAX_BYTES + 1)
    else:
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            raise ReconError(f"there is no file {quoted(path)}") from None
        except OSError as error:
            raise ReconError(f"cannot read {quoted(path)}: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise ReconError(f"{name_of(path)} is larger than {MAX_BYTES} bytes, so it is no document of Recon")
    return data
