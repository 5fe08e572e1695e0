"""The data set of a run: rows of a CSV, filtered, split once, and partitioned over clients."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fedmq import rng
from fedmq.algorithms import partition
from fedmq.data.reading import CHUNK_ROWS, read_filtered, require_column
from fedmq.errors import ConfigError, DataError
from fedmq.recipe import DataSpec

#: Tokenise: one 1-D integer array per text, whole, EOS last.
Encode = Callable[[list[str]], list[np.ndarray]]

METHODS = ("iid", "non_iid", "by_author")


class ClientRows(NamedTuple):
    """One client's share: positions into `FederatedDataset.train` and `.val`; `author` only for by_author."""

    client_id: str
    author: str | None
    train: np.ndarray
    val: np.ndarray


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
        sizes = partition.largest_remainder(len(self.frame), [data.train_split, data.val_split, data.test_split])
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

    def partition(self, method: str, num_clients: int, min_samples_per_client: int = 1) -> list[ClientRows]:
        """Deal the training rows, and the val rows by the same rule, to `num_clients` clients.

        Args:
          method: "iid" (equal parts), "non_iid" (by text length, 2 chunks per client) or "by_author"
            (one client per author, most frequent first; the rows of other authors are left out).
          num_clients: at least 1.
          min_samples_per_client: by_author only: the fewest training rows of an author who is a client.

        Raises:
          DataError: a client would have no row, no author column, or too few authors with enough rows.
          ConfigError: an unknown method.
        """
        if method not in METHODS:
            raise ConfigError(f"unknown data distribution {method!r}, expected one of {', '.join(METHODS)}")
        names = [f"client_{k}" for k in range(num_clients)]
        if method == "by_author":
            require_column(self.path, self.columns, self.data.author_column, "data.author_column, for by_author")
            try:
                owned = partition.by_author(self._column("train", "author"), num_clients, min_samples_per_client)
            except DataError as error:
                raise DataError(f"{self.path}: {error}") from None
            authors = [author for author, _ in owned]
            val = partition.rows_of(self._column("val", "author"), authors)
            clients = [
                ClientRows(name, author, rows, held)
                for name, (author, rows), held in zip(names, owned, val, strict=True)
            ]
        else:
            train, val = self._deal(method, "train", num_clients), self._deal(method, "val", num_clients)
            clients = [ClientRows(name, None, rows, held) for name, rows, held in zip(names, train, val, strict=True)]
        if not all(len(client.train) for client in clients):
            raise DataError(
                f"{self.path}: {len(self._splits['train'])} training rows are too few for {num_clients} clients "
                f"({method}): lower federated.num_clients, or give more data"
            )
        return clients

    def describe(self, clients: Sequence[ClientRows] = ()) -> dict[str, Any]:
        """Statistics as plain JSON values: rows read, dropped by each filter, kept, per split, and per client.

        `authors` is None where the file has no author column.
        """
        return {
            "file": self.path.name,
            "rows_read": self.rows_read,
            "dropped": dict(self.dropped),
            "rows_kept": len(self.frame),
            "splits": {name: len(rows) for name, rows in self._splits.items()},
            "authors": self._num_authors(np.arange(len(self.frame))),
            "train_rows_used": sum(len(client.train) for client in clients) if clients else None,
            "clients": [self.describe_client(client) for client in clients],
        }

    def describe_client(self, client: ClientRows) -> dict[str, Any]:
        """One client's statistics: rows, val_rows, and authors among its training rows."""
        return {
            "client_id": client.client_id,
            "author": client.author,
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

    def _deal(self, method: str, split: str, num_clients: int) -> list[np.ndarray]:
        # A fresh generator for each split: both draw alike, so a client's val texts are of the same lengths
        # as its training texts.
        generator = rng.derive(self.seed, "partition")
        rows = self._splits[split]
        if method == "iid":
            return partition.iid(len(rows), num_clients, generator)
        lengths = self.frame["text"].iloc[rows].str.len().to_numpy()
        return partition.non_iid(lengths, num_clients, generator)

    def _num_authors(self, rows: np.ndarray) -> int | None:
        if "author" not in self.frame:
            return None
        authors = self.frame["author"].iloc[rows]
        return int(authors[authors != ""].nunique())
