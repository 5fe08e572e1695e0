"""Which company a tweet is addressed to: found through its conversation, else by the company that it mentions.

A company is whoever wrote a tweet that is not inbound.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from fedmq.data.reading import CHUNK_ROWS, chunks, is_inbound, require_column
from fedmq.errors import DataError
from fedmq.recipe import DataSpec

ID, PARENT, INBOUND = "tweet_id", "in_response_to_tweet_id", "inbound"
_MENTION = re.compile(r"(?<!\w)@(\w+)")
_NOBODY = -1


def find_brands(path: Path, columns: tuple[str, ...], data: DataSpec, frame: pd.DataFrame, method: str) -> pd.Series:
    """The company of each kept row, "" where none is found.

    In this order: the company that wrote the tweet; the nearest one above, in what the tweet replies to; the nearest
    one below, in the replies to it, the first in the file where there are several; the nearest one below of the
    tweets above; the first company of the file that the text mentions. The rows that were dropped count as parts
    of their conversations.

    Args:
      path: the CSV, which was read once.
      columns: of its header.
      data: names the author's column.
      frame: the kept rows, with `row` and `text`.
      method: the partition that asks, for messages.

    Raises:
      DataError: it lacks a column, or a tweet's number is none.
    """
    author = data.author_column
    for column in (ID, PARENT, INBOUND, author):
        require_column(path, columns, column, f"{method} finds companies by their conversations")
    numbers, parents, writers = [], [], []
    for chunk in chunks(path, columns, {ID, PARENT, INBOUND, author}, CHUNK_ROWS):
        numbers.append(_numbers(chunk[ID], path))
        parents.append(_numbers(chunk[PARENT], path))
        writers.append(chunk[author].fillna("").mask(is_inbound(chunk[INBOUND], path), ""))
    # Code 0 is "", who is no company.
    codes, names = pd.factorize(pd.concat([pd.Series([""]), *writers], ignore_index=True))
    company = np.where(codes[1:] == 0, _NOBODY, codes[1:])
    found = conversation_brands(np.concatenate(numbers), np.concatenate(parents), company)[frame["row"].to_numpy()]
    handles = {str(name).lower(): code for code, name in reversed(list(enumerate(names))) if name}
    silent = np.flatnonzero(found == _NOBODY)
    found[silent] = [_mentioned(_MENTION.findall(text), handles) for text in frame["text"].iloc[silent]]
    return pd.Series(np.where(found == _NOBODY, "", np.asarray(names, object)[found]), index=frame.index)


def conversation_brands(numbers: np.ndarray, parents: np.ndarray, company: np.ndarray) -> np.ndarray:
    """The company of each tweet by its conversation, -1 where that has none.

    Args:
      numbers: shape (num_rows,), int64, of each tweet; -1 where it has none. Of equal ones the first counts.
      parents: the number of the tweet that it replies to; -1 where there is none.
      company: who wrote it, as a number >= 0; -1 where that is a customer.

    Example:
      >>> numbers, parents = np.array([7, 8, 9, 10]), np.array([-1, 7, 8, 7])
      >>> conversation_brands(numbers, parents, np.array([-1, 5, -1, -1])).tolist()
      [5, 5, 5, 5]
    """
    up = _rows_of(numbers, parents)
    above = company[_nearest(company >= 0, up)]
    below = _first_below(company, up)
    return np.where(above >= 0, above, below[_nearest(below >= 0, up)])


def _rows_of(numbers: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The row of each wanted number, -1 where there is none."""
    order = np.argsort(numbers, kind="stable")
    at = np.minimum(np.searchsorted(numbers, wanted, sorter=order), len(numbers) - 1)
    rows = order[at]
    return np.where((wanted >= 0) & (numbers[rows] == wanted), rows, -1)


def _nearest(marked: np.ndarray, up: np.ndarray) -> np.ndarray:
    """The first marked row on the way up from each row, itself included; an unmarked one where there is none."""
    own = np.arange(len(up))
    jump = np.where(marked | (up < 0), own, up)
    # Each turn doubles the way; a circle of replies, which a file may hold, ends on some unmarked row of it.
    for _ in range(len(up).bit_length()):
        further = jump[jump]
        if (further == jump).all():
            break
        jump = further
    return jump


def _first_below(company: np.ndarray, up: np.ndarray) -> np.ndarray:
    """The company nearest below each row, the first in the file where several are equally near; -1 for none."""
    nowhere = len(up)
    reply = np.where(company >= 0, np.arange(len(up)), nowhere)
    below = np.full(len(up), nowhere)
    rows = np.flatnonzero((company >= 0) & (up >= 0))
    while len(rows := rows[below[up[rows]] == nowhere]):
        reached = np.unique(up[rows])
        np.minimum.at(below, up[rows], reply[rows])
        # One step further up, what was found here is still the nearest; a company's own row says no more than itself.
        rows = reached[(company[reached] < 0) & (up[reached] >= 0)]
        reply[rows] = below[rows]
    return np.where(below < nowhere, company[np.minimum(below, nowhere - 1)], _NOBODY)


def _mentioned(handles: Iterable[str], codes: dict[str, int]) -> int:
    return next((codes[handle.lower()] for handle in handles if handle.lower() in codes), _NOBODY)


def _numbers(values: pd.Series, path: Path) -> np.ndarray:
    """Numbers of tweets, also those that some tool has written as 3.0; -1 for an empty field."""
    found = [_number(value) for value in values.fillna("")]
    if None in found:
        row, value = values.index[found.index(None)] + 1, values.iloc[found.index(None)]
        raise DataError(f"{path}: column {values.name!r} of data row {row} is {value!r}, expected a tweet's number")
    return np.array(found, np.int64)


def _number(text: str) -> int | None:
    digits = text.strip().removesuffix(".0")
    if not digits:
        return _NOBODY
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 18 else None
