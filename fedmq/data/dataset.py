"""The data set of a run: rows of a CSV, filtered, split once, and partitioned over clients."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fedmq import rng
from fedmq.algorithms import partition, partition_shares
from fedmq.data.brands import find_brands
from fedmq.data.reading import CHUNK_ROWS, read_filtered, require_column
from fedmq.errors import ConfigError, DataError
from fedmq.recipe import DataSpec

#: Tokenise: one 1-D integer array per text, whole, EOS last.
Encode = Callable[[list[str]], list[np.ndarray]]


class ClientRows(NamedTuple):
    """One client's share.

    Attributes:
      client_id: client_0, client_1, ...
      author, brand: that the client is, by_author and by_brand only; None of a group of small ones.
      train, val: positions into `FederatedDataset.train` and `.val`.
      label_tv: by how much its training rows differ from all in their classes, dirichlet only
        (`fedmq.algorithms.partition_shares.label_tv`).
    """

    client_id: str
    author: str | None
    train: np.ndarray
    val: np.ndarray
    brand: str | None = None
    label_tv: float | None = None


class FederatedDataset:
    """Tweets from a CSV, each kept row in exactly one of train, val and test.

    The split depends on the file, the filters and the seed alone. The test split is global; the
    training split is what `partition` deals to clients, and the val split follows it.

    Args:
      path: a UTF-8 CSV file; large ones are read in chunks.
      data: columns, filters and the fractions of the splits.
      seed: of the split and of the partition.
      chunk_rows: rows parsed at a time; no result depends on it.

    Raises:
      DataError: the file, a column or a row cannot be used, or no row is left.

    Example:
      >>> import tempfile
      >>> file = Path(tempfile.mkdtemp(), "tweets.csv")
      >>> _ = file.write_text("text,author_id\\n" + "".join(f"tweet number {i},a{i % 2}\\n" for i in range(10)))
      >>> spec = DataSpec("text", "author_id", 0.8, 0.1, 0.1, filter_min_length=5, filter_inbound_only=False)
      >>> dataset = FederatedDataset(file, spec, seed=42)
      >>> dataset
      FederatedDataset(tweets.csv: 10 of 10 rows kept; train 8, val 1, test 1; 2 authors)
      >>> [len(client.train) for client in dataset.partition("iid", num_clients=3)]
      [3, 3, 2]
    """

    def __init__(
        self, path: str | os.PathLike[str], data: DataSpec, seed: int, *, chunk_rows: int = CHUNK_ROWS
    ) -> None:
        self.path = Path(path)
        self.data = data
        self.seed = seed
        rows = read_filtered(self.path, data, chunk_rows)
        self.columns = rows.columns
        self.rows_read = rows.rows_read
        self.dropped = rows.dropped
        self.frame = rows.frame
        sizes = partition_shares.largest_remainder(len(self.frame), [data.train_split, data.val_split, data.test_split])
        order = rng.derive(seed, "split").permutation(len(self.frame))
        train, val, test = np.split(order, np.cumsum(sizes)[:-1])
        self._splits = {"train": np.sort(train), "val": np.sort(val), "test": np.sort(test)}
        if not len(train):
            raise DataError(f"{self.path}: {len(self.frame)} rows kept, none for training; see data.train_split")

    @property
    def train(self) -> pd.DataFrame:
        """The training rows (columns row, text, and author where the file has it), in file order."""
        return self._split("train")

    @property
    def val(self) -> pd.DataFrame:
        """The validation rows, dealt to clients as the training rows are."""
        return self._split("val")

    @property
    def test(self) -> pd.DataFrame:
        """The global test rows, which belong to no client."""
        return self._split("test")

    def partition(
        self, method: str, num_clients: int, min_samples_per_client: int = 1, **options: Any
    ) -> list[ClientRows]:
        """Deal the training rows, and the val rows by the same rule, to `num_clients` clients.

        Args:
          method: a name of `fedmq.algorithms.partition`: "iid" (equal parts), "by_author" (one client per author) ...
          num_clients: at least 1.
          min_samples_per_client: by_author and by_brand only: the fewest training rows of a client.
          options: of the method.

        Raises:
          DataError: a client would have too few rows, or the file lacks a column that the method needs.
          ConfigError: an unknown method.
          TypeError, ValueError: an option that the method has not, or a value that it cannot be.
        """
        if method not in partition.BY_NAME:
            known = ", ".join(partition.BY_NAME)
            raise ConfigError(f"unknown data distribution {method!r}, expected one of {known}")
        rule = partition.BY_NAME[method](**options)
        labels = {what: self._labels(what, method) for what in rule.needs}
        train, val = (self._rows(split, labels) for split in ("train", "val"))
        try:
            shares = rule.deal(train, val, partition_shares.Wanted(num_clients, self.seed, min_samples_per_client))
        except DataError as error:
            raise DataError(f"{self.path}: {error}") from None
        if not all(len(share.train) for share in shares):
            raise DataError(
                f"{self.path}: {len(self._splits['train'])} training rows are too few for {num_clients} clients "
                f"({method}): lower federated.num_clients, or give more data"
            )
        return [
            ClientRows(
                f"client_{k}",
                share.owner if rule.owner == "author" else None,
                share.train,
                share.val,
                share.owner if rule.owner == "brand" else None,
                share.label_tv,
            )
            for k, share in enumerate(shares)
        ]

    def describe(self, clients: Sequence[ClientRows] = ()) -> dict[str, Any]:
        """Statistics as plain JSON values: rows read, dropped by each filter, kept, per split, and per client.

        `authors` is None where the file has no author column, `label_tv` (a mean over rows) where there are no classes.
        """
        return {
            "file": self.path.name,
            "rows_read": self.rows_read,
            "dropped": dict(self.dropped),
            "rows_kept": len(self.frame),
            "splits": {name: len(rows) for name, rows in self._splits.items()},
            "authors": self._num_authors(np.arange(len(self.frame))),
            "train_rows_used": sum(len(client.train) for client in clients) if clients else None,
            "label_tv": _mean_label_tv(clients),
            "clients": [self.describe_client(client) for client in clients],
        }

    def describe_client(self, client: ClientRows) -> dict[str, Any]:
        """One client's statistics: rows, val_rows, authors among its training rows, what it is, its `label_tv`."""
        return {
            "client_id": client.client_id,
            "author": client.author,
            "brand": client.brand,
            "label_tv": client.label_tv,
            "rows": len(client.train),
            "val_rows": len(client.val),
            "authors": self._num_authors(self._splits["train"][client.train]),
        }

    def texts(self, split: str, positions: np.ndarray | None = None) -> list[str]:
        """The texts of a split, or those at `positions` in it."""
        return self._column(split, "text", positions)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(rows):,}" for name, rows in self._splits.items())
        authors = self._num_authors(np.arange(len(self.frame)))
        return (
            f"FederatedDataset({self.path.name}: {len(self.frame):,} of {self.rows_read:,} rows kept; {sizes}"
            + ("" if authors is None else f"; {authors:,} authors")
            + ")"
        )

    def _split(self, name: str) -> pd.DataFrame:
        return self.frame.iloc[self._splits[name]].reset_index(drop=True)

    def _column(self, split: str, column: str, positions: np.ndarray | None = None) -> list[str]:
        rows = self._splits[split] if positions is None else self._splits[split][positions]
        return self.frame[column].iloc[rows].tolist()

    def _labels(self, what: str, method: str) -> pd.Series:
        """The author or the brand of every kept row, "" where it is unknown."""
        if what == "brand":
            return find_brands(self.path, self.columns, self.data, self.frame, method)
        require_column(self.path, self.columns, self.data.author_column, f"data.author_column, for {method}")
        return self.frame["author"]

    def _rows(self, split: str, labels: dict[str, pd.Series]) -> partition_shares.Rows:
        rows = self._splits[split]
        lengths = self.frame["text"].iloc[rows].str.len().to_numpy(np.int64)
        return partition_shares.Rows(lengths, {what: label.iloc[rows].tolist() for what, label in labels.items()})

    def _num_authors(self, rows: np.ndarray) -> int | None:
        if "author" not in self.frame:
            return None
        authors = self.frame["author"].iloc[rows]
        return int(authors[authors != ""].nunique())


def _mean_label_tv(clients: Sequence[ClientRows]) -> float | None:
    known = [(client.label_tv, len(client.train)) for client in clients if client.label_tv is not None]
    return sum(tv * rows for tv, rows in known) / sum(rows for _, rows in known) if known else None
