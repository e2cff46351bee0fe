"""Documents as data frames of pandas or polars, which only those who ask for one need."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from recon_cli.errors import ReconError, describe

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

Cell = str | int | float | Sequence[str] | None

_PANDAS_TYPES: Mapping[type, str] = {str: "string", int: "Int64", float: "float64", list: "object"}


@dataclass(frozen=True)
class FrameContent:
    """What a data frame holds.

    :ivar columns: the type of every column: str, int, float, or list for lists of texts.
    :ivar rows: each with one cell for every column; None where something is not known.
    """

    columns: Mapping[str, type]
    rows: Sequence[Sequence[Cell]]

    def by_column(self) -> dict[str, list[Cell]]:
        """The cells of every column."""
        columns: dict[str, list[Cell]] = {name: [] for name in self.columns}
        for row in self.rows:
            for cells, cell in zip(columns.values(), row, strict=True):
                cells.append(cell)
        return columns


class Framed(ABC):
    """A document that gives itself as a data frame."""

    @abstractmethod
    def frame_content(self) -> FrameContent:
        """The columns and rows of the frame."""

    def to_pandas(self) -> pd.DataFrame:
        """The document as a data frame of pandas, with `string`, `Int64`, `float64` and `object` columns.

        :raises ReconError: if pandas cannot be imported.
        """
        pandas, content = _import("pandas"), self.frame_content()
        columns = {
            name: pandas.Series(cells, dtype=_PANDAS_TYPES[content.columns[name]])
            for name, cells in content.by_column().items()
        }
        return pandas.DataFrame(columns)

    def to_polars(self) -> pl.DataFrame:
        """The document as a data frame of polars, with `String`, `Int64`, `Float64` and `List(String)` columns.

        :raises ReconError: if polars cannot be imported.
        """
        polars, content = _import("polars"), self.frame_content()
        types = {str: polars.String, int: polars.Int64, float: polars.Float64, list: polars.List(polars.String)}
        schema = {name: types[kind] for name, kind in content.columns.items()}
        frame: pl.DataFrame = polars.DataFrame(content.by_column(), schema=schema)
        return frame


def _import(library: str) -> Any:
    try:
        return import_module(library)
    # Packages that do not go together fail in any way.
    except Exception as error:
        raise ReconError(f"{library} cannot be imported: {describe(error)}", f"pip install {library}") from error
