"""The files of Census-Income (KDD): rows of 42 values without a header, separated by a comma and a space."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from recon_cli.errors import ReconError, counted, quoted

COLUMNS = (
    "age",
    "class of worker",
    "detailed industry",
    "detailed occupation",
    "education",
    "wage per hour",
    "enrolled last week",
    "marital status",
    "major industry",
    "major occupation",
    "race",
    "hispanic origin",
    "sex",
    "member of a labor union",
    "reason for unemployment",
    "full or part time employment",
    "capital gains",
    "capital losses",
    "dividends from stocks",
    "tax filer status",
    "region of previous residence",
    "state of previous residence",
    "detailed household and family status",
    "detailed household summary",
    "instance weight",
    "migration between metropolitan areas",
    "migration between regions",
    "migration within a region",
    "in this house a year ago",
    "previous residence in the sunbelt",
    "persons worked for employer",
    "family members under 18",
    "country of birth of the father",
    "country of birth of the mother",
    "country of birth",
    "citizenship",
    "own business or self-employed",
    "questionnaire for the veterans administration",
    "veterans benefits",
    "weeks worked in a year",
    "year",
    "income",
)


def read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Read a file row by row, compressed with gzip or plain, as its name says.

    :returns: the number of each row's line, counted from 1, and its values in the order of `COLUMNS`.
    :raises ReconError: naming the file, and the line where one has not 42 values.
    """
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8", newline="") as file:
            reader = csv.reader(file, skipinitialspace=True)
            for row in reader:
                if len(row) != len(COLUMNS):
                    raise ReconError(
                        f"line {reader.line_num} of {quoted(path)} has {counted(len(row), 'value')}; "
                        f"{len(COLUMNS)} were expected"
                    )
                yield reader.line_num, row
    except EOFError:
        raise ReconError(f"{quoted(path)} is truncated: its compressed data ends early") from None
    except (gzip.BadGzipFile, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise ReconError(f"{quoted(path)} is damaged: {error}") from None
    except OSError as error:
        raise ReconError(f"cannot read {quoted(path)}: {error.strerror}") from None
