"""Reading a CSV of tweets in chunks, and the filters; every problem is a DataError that names the place.

Rows and fields are never repaired. A row with more fields than the header is an error, and so is a
row that ends before a column that is used. A row that only lacks trailing columns that nobody uses
is read (some tools write no trailing commas), and a complete row with empty fields is just a row,
which the filters drop and count.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from fedmq.errors import DataError
from fedmq.recipe import DataSpec

#: Rows per chunk: some 20 MB of strings at a time for tweets.
CHUNK_ROWS = 50_000
#: Characters of one field.
MAX_FIELD = 64 << 20
TRUE, FALSE = frozenset({"true", "1", "1.0"}), frozenset({"false", "0", "0.0", ""})


class FilteredRows(NamedTuple):
    """The rows that passed, in file order, and what became of the others.

    `frame` has the columns author where the file has it ("" where a row has none), text (stripped)
    and row (0-based number of the row in the file, the header not counted).
    `dropped` counts by the first filter that a row failed.
    """

    frame: pd.DataFrame
    rows_read: int
    dropped: dict[str, int]
    columns: tuple[str, ...]


def read_filtered(path: Path, data: DataSpec, chunk_rows: int = CHUNK_ROWS) -> FilteredRows:
    """Read a CSV and keep the rows that pass the filters of `data`.

    Args:
      path: a UTF-8 CSV with a header (a byte order mark is fine).
      data: the names of the columns, and the filters.
      chunk_rows: rows held as parsed at a time; it changes memory, never the result.

    Returns:
      The kept rows; exact duplicates of an earlier text are dropped.

    Raises:
      DataError: no such file, a missing column, undecodable bytes, a ragged row, a value of
        `inbound` that is neither true nor false, or no row left.
    """
    kept: list[pd.DataFrame] = []
    dropped = {"not_inbound": 0, "empty_text": 0, "too_short": 0, "duplicate_text": 0}
    rows_read = 0
    columns = _checked_columns(path, data)
    for chunk in chunks(path, columns, _used_columns(columns, data), chunk_rows):
        rows_read += len(chunk)
        frame = pd.DataFrame({"row": chunk.index, "text": chunk[data.text_column].fillna("").str.strip()})
        if data.author_column in chunk:
            frame["author"] = chunk[data.author_column].fillna("")
        if data.filter_inbound_only:
            frame = _keep(frame, is_inbound(chunk["inbound"], path), dropped, "not_inbound")
        length = frame["text"].str.len()
        frame = _keep(frame, length > 0, dropped, "empty_text")
        frame = _keep(frame, length[frame.index] >= data.filter_min_length, dropped, "too_short")
        kept.append(frame)
    frame = pd.concat(kept, ignore_index=True)
    frame = _keep(frame, ~frame["text"].duplicated(), dropped, "duplicate_text").reset_index(drop=True)
    if frame.empty:
        counts = ", ".join(f"{name} {count:,}" for name, count in dropped.items())
        raise DataError(
            f"{path}: no row left after the filters ({rows_read:,} rows read; dropped: {counts}); "
            "see data.filter_inbound_only and data.filter_min_length"
        )
    return FilteredRows(frame, rows_read, dropped, columns)


def require_file(path: Path) -> None:
    """Raise DataError unless `path` is there and is not a folder."""
    if not path.exists():
        raise DataError(
            f"{path}: no such file (current folder: {Path.cwd()}); see data.dataset_path, or --data of a worker"
        )
    if path.is_dir():
        raise DataError(f"{path}: is a folder, expected a CSV file; see data.dataset_path, or --data of a worker")


def require_column(path: Path, columns: tuple[str, ...], column: str, setting: str) -> None:
    """Raise DataError that names the file, the missing column, the columns there are and the setting to change."""
    if column not in columns:
        found = ", ".join(columns[:20]) + (f" and {len(columns) - 20} more" if len(columns) > 20 else "")
        raise DataError(f"{path}: no column {column!r} ({setting}); the file has {found}")


def is_inbound(values: pd.Series, path: Path) -> pd.Series:
    """Whether each row is a customer's; DataError on a value that is neither true nor false."""
    lowered = values.fillna("").str.strip().str.lower()
    unknown = ~lowered.isin(TRUE | FALSE)
    if unknown.any():
        position = int(unknown.to_numpy().argmax())
        row, value = values.index[position] + 1, values.iloc[position]
        raise DataError(
            f"{path}: column 'inbound' of data row {row} is {value!r}, expected True or False; "
            "set data.filter_inbound_only to false to use every row"
        )
    return lowered.isin(TRUE)


def chunks(path: Path, columns: tuple[str, ...], names: Iterable[str], chunk_rows: int) -> Iterator[pd.DataFrame]:
    """The columns of these names as text, None where a row has none, so many rows at a time; indexed by their number.

    Args:
      path: a file whose records were checked.
      columns: all that it has.
      names: of the wanted ones.
      chunk_rows: rows held at a time.
    """
    used = [columns.index(name) for name in names]
    try:
        with pd.read_csv(
            path,
            usecols=used,
            dtype=str,
            chunksize=chunk_rows,
            keep_default_na=False,
            na_values=[""],
            compression=None,
        ) as parsed:
            yield from parsed
    except pd.errors.ParserError as error:
        line = max(line for line, _ in _records(path))
        raise DataError(f"{path}: line {line}: a quote is opened and never closed") from error


def _keep(frame: pd.DataFrame, mask: pd.Series, dropped: dict[str, int], reason: str) -> pd.DataFrame:
    dropped[reason] += int((~mask).sum())
    return frame[mask]


def _checked_columns(path: Path, data: DataSpec) -> tuple[str, ...]:
    """The header, after a look at every record's number of fields, which pandas fills up or cuts in silence."""
    require_file(path)
    try:
        records = _records(path)
        _, header = next(records, (0, []))
        if not header:
            raise DataError(f"{path}: is empty, expected a CSV file with a header")
        columns = tuple(header)
        require_column(path, columns, data.text_column, "data.text_column")
        if data.filter_inbound_only:
            require_column(path, columns, "inbound", "data.filter_inbound_only is true")
        last_used = max(columns.index(name) for name in _used_columns(columns, data))
        for line, record in records:
            if not last_used < len(record) <= len(columns):
                raise DataError(
                    f"{path}: line {line}: expected {len(columns)} fields, saw {len(record)}; "
                    "a text with a comma, a quote or a line break must be quoted"
                )
    except UnicodeDecodeError as error:
        line, offset = _undecodable(path)
        raise DataError(f"{path}: line {line}, byte {offset}: not UTF-8; save the file as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return columns


def _used_columns(columns: tuple[str, ...], data: DataSpec) -> set[str]:
    return {data.text_column, data.author_column, *(["inbound"] if data.filter_inbound_only else [])} & set(columns)


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The line on which each record starts, from 1, and its fields; the header is the first, blank lines are none."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        line = 1
        # The module's own limit of 131,072 characters is shorter than some texts; it is one for the whole process.
        limit = csv.field_size_limit(MAX_FIELD)
        try:
            for record in reader:
                if record:
                    yield line, record
                line = reader.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"{path}: line {line}: {error}; no text is that long: is a quote opened and never closed?"
            ) from error
        finally:
            csv.field_size_limit(limit)


def _undecodable(path: Path) -> tuple[int, int]:
    """Line, from 1, and byte offset in the file, from 0, of the first byte that is not UTF-8."""
    offset = 0
    with open(path, "rb") as file:
        for line, raw in enumerate(file, 1):
            try:
                raw.decode("utf-8")
            except UnicodeDecodeError as error:
                return line, offset + error.start
            offset += len(raw)
    return line, offset
