"""The data set: filters, split, partitions on real tweets, and one clear line for each kind of bad file."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmq.data import reading
from fedmq.data.dataset import FederatedDataset
from fedmq.errors import ConfigError, DataError
from fedmq.recipe import DataSpec

HEADER = "tweet_id,author_id,inbound,created_at,text,response_tweet_id,in_response_to_tweet_id\n"
GOOD = "1,7,True,today,hello my friend,2,3\n"
FIELDS: dict[str, Any] = {
    "text_column": "text",
    "author_column": "author_id",
    "train_split": 0.8,
    "val_split": 0.1,
    "test_split": 0.1,
    "filter_min_length": 10,
    "filter_inbound_only": True,
}


def spec(**changes: Any) -> DataSpec:
    return DataSpec(**{**FIELDS, **changes})


def good(count: int) -> str:
    return "".join(f"{i},{i % 3},True,today,hello my friend {i},,\n" for i in range(count))


def save(folder: Path, content: str | bytes) -> Path:
    path = folder / "tweets.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def error_of(path: Path, chunk_rows: int = 2, **changes: Any) -> str:
    with pytest.raises(DataError) as caught:
        FederatedDataset(path, spec(**changes), 1, chunk_rows=chunk_rows)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


@pytest.fixture(scope="module")
def tweets(shared_data: Path) -> FederatedDataset:
    return FederatedDataset(shared_data / "twcs_sample.csv", spec(), 42)


# --- real tweets


def test_real_rows_agree_with_the_csv_module(tweets: FederatedDataset) -> None:
    with open(tweets.path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    kept: dict[str, None] = {}
    for row in rows:
        text = row["text"].strip()
        if row["inbound"] == "True" and len(text) >= 10:
            kept.setdefault(text, None)
    assert tweets.rows_read == len(rows) == 2500
    assert sum(tweets.dropped.values()) + len(tweets.frame) == 2500
    assert tweets.dropped["not_inbound"] == 2500 - 1372
    assert tweets.frame["text"].tolist() == list(kept)
    assert [rows[row]["text"].strip() for row in tweets.frame["row"]] == list(kept)


def test_every_kept_row_is_in_exactly_one_split(tweets: FederatedDataset) -> None:
    splits = (tweets.train, tweets.val, tweets.test)
    assert [len(split) for split in splits] == [1097, 137, 137]
    rows = np.concatenate([split["row"] for split in splits])
    assert sorted(rows) == tweets.frame["row"].tolist()
    texts = [text for split in splits for text in split["text"]]
    assert len(set(texts)) == len(texts) == 1371


def test_the_split_depends_on_the_seed_and_not_on_the_chunks(tweets: FederatedDataset) -> None:
    for chunk_rows in (7, 1000):
        other = FederatedDataset(tweets.path, spec(), 42, chunk_rows=chunk_rows)
        assert other.describe() == tweets.describe()
        assert other.test.equals(tweets.test)
        assert other.train.equals(tweets.train)
    assert not FederatedDataset(tweets.path, spec(), 43).test.equals(tweets.test)


@pytest.mark.parametrize("method", ["iid", "non_iid"])
def test_equal_partitions_use_all_rows(tweets: FederatedDataset, method: str) -> None:
    clients = tweets.partition(method, 5, 100)
    assert [client.client_id for client in clients] == [f"client_{k}" for k in range(5)]
    assert sorted(np.concatenate([client.train for client in clients])) == list(range(1097))
    assert sorted(np.concatenate([client.val for client in clients])) == list(range(137))
    assert {len(client.train) for client in clients} == {219, 220}
    assert {len(client.val) for client in clients} == {27, 28}


def test_non_iid_clients_differ_in_length_and_agree_in_train_and_val(tweets: FederatedDataset) -> None:
    means = [
        [
            np.mean([len(text) for text in tweets.texts(split, rows)])
            for split, rows in (("train", c.train), ("val", c.val))
        ]
        for c in tweets.partition("non_iid", 5)
    ]
    train, val = np.array(means).T
    assert train.max() - train.min() > 30
    assert np.abs(train - val).max() < 8


def test_by_author_gives_each_client_one_author(tweets: FederatedDataset) -> None:
    counts = tweets.train["author"].value_counts()
    clients = tweets.partition("by_author", 5, 5)
    assert [len(client.train) for client in clients] == sorted(counts, reverse=True)[:5]
    for client in clients:
        assert client.author is not None
        assert set(tweets.train["author"].iloc[client.train]) == {client.author}
        assert client.val.tolist() == np.flatnonzero(tweets.val["author"] == client.author).tolist()


def test_too_few_real_authors(tweets: FederatedDataset) -> None:
    with pytest.raises(
        DataError, match=r"twcs_sample.csv: by_author needs 10 authors .* 100 .* 0 of 644 .*at most 6, or"
    ):
        tweets.partition("by_author", 10, 100)


def test_describe_and_repr(tweets: FederatedDataset) -> None:
    described = tweets.describe(tweets.partition("by_author", 2, 5))
    assert described["splits"] == {"train": 1097, "val": 137, "test": 137}
    assert (described["authors"], described["train_rows_used"]) == (719, 25)
    assert described["clients"][0] == {
        "client_id": "client_0", "author": "116354", "brand": None, "label_tv": None,
        "rows": 13, "val_rows": 0, "authors": 1,
    }  # fmt: skip
    assert repr(tweets) == (
        "FederatedDataset(twcs_sample.csv: 1,371 of 2,500 rows kept; train 1,097, val 137, test 137; 719 authors)"
    )


# --- filters


def test_each_filter_counts_what_it_drops(tmp_path: Path) -> None:
    rows = [
        "1,a,True,t,  exactly ten ,,",
        "2,a,False,t,a brand answers,,",
        "3,a,,t,nobody knows who,,",
        '4,a,True,t,"",,',
        "5,a,True,t,   ,,",
        "6,a,True,t,nine char,,",
        "7,b,True,t,exactly ten,,",
        "8,b,TRUE,t,one more text,,",
        "9,b,1,t,NA or null or nan,,",
    ]
    dataset = FederatedDataset(save(tmp_path, HEADER + "\n".join(rows)), spec(), 1)
    assert dataset.frame["text"].tolist() == ["exactly ten", "one more text", "NA or null or nan"]
    assert dataset.frame["row"].tolist() == [0, 7, 8]
    assert dataset.dropped == {"not_inbound": 2, "empty_text": 2, "too_short": 1, "duplicate_text": 1}
    everyone = FederatedDataset(save(tmp_path, HEADER + "\n".join(rows)), spec(filter_inbound_only=False), 1)
    assert len(everyone.frame) == 5


@pytest.mark.parametrize("value", ["True", "TRUE", "true", "1", "1.0", " True "])
def test_spellings_of_true(tmp_path: Path, value: str) -> None:
    path = save(
        tmp_path, HEADER + GOOD.replace("True", value) + GOOD.replace("hello", "goodbye").replace("True", "False")
    )
    assert FederatedDataset(path, spec(), 1).frame["text"].tolist() == ["hello my friend"]


def test_an_unknown_spelling_is_an_error(tmp_path: Path) -> None:
    path = save(tmp_path, HEADER + good(3) + GOOD.replace("True", "oui"))
    assert "column 'inbound' of data row 4 is 'oui', expected True or False" in error_of(path)


@pytest.mark.parametrize("value", ["NA", "None", "null", "nan"])
def test_words_that_pandas_takes_for_missing_are_texts(tmp_path: Path, value: str) -> None:
    path = save(tmp_path, f"text\n{value}\n")
    assert FederatedDataset(path, spec(filter_inbound_only=False, filter_min_length=1), 1).frame["text"].tolist() == [
        value
    ]


def test_a_row_without_an_author_counts_no_author(tmp_path: Path) -> None:
    dataset = FederatedDataset(save(tmp_path, HEADER + good(9) + "9,,True,t,hello from nobody,,\n"), spec(), 1)
    assert len(dataset.frame) == 10
    assert dataset.describe()["authors"] == 3


def test_an_owner_needs_no_author_and_own_column_names_work(tmp_path: Path) -> None:
    path = save(tmp_path, "note\n" + "".join(f"a note number {i}\n" for i in range(10)))
    dataset = FederatedDataset(path, spec(text_column="note", filter_inbound_only=False), 1)
    assert dataset.describe()["authors"] is None
    assert list(dataset.train.columns) == ["row", "text"]
    assert repr(dataset).endswith("test 1)")
    with pytest.raises(
        DataError, match=r"no column 'author_id' \(data.author_column, for by_author\); the file has note"
    ):
        dataset.partition("by_author", 2, 1)


def test_multi_line_quoted_texts_byte_order_mark_and_crlf(tmp_path: Path) -> None:
    text = 'hello, "my"\nfriend'
    lines = "".join(f'{i},a,True,t,"hello, ""my""\nfriend {i}",,\n' for i in range(9))
    for content in (HEADER + lines, "\ufeff" + HEADER + lines):
        frame = FederatedDataset(save(tmp_path, content), spec(), 1, chunk_rows=2).frame
        assert frame["text"].tolist() == [f"{text} {i}" for i in range(9)]
        assert frame["row"].tolist() == list(range(9))
    crlf = FederatedDataset(save(tmp_path, (HEADER + lines).replace("\n", "\r\n")), spec(), 1, chunk_rows=2).frame
    assert crlf["text"].tolist() == [f"{text} {i}".replace("\n", "\r\n") for i in range(9)]


def test_a_dirty_last_row_is_dropped_and_counted(tmp_path: Path) -> None:
    dataset = FederatedDataset(save(tmp_path, HEADER + good(9) + "3398,,,,,,\n"), spec(), 1, chunk_rows=3)
    assert (dataset.rows_read, dataset.dropped["not_inbound"]) == (10, 1)


# --- bad files


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert error_of(tmp_path / "none.csv").startswith(f"no such file (current folder: {Path.cwd()})")
    assert error_of(tmp_path).startswith("is a folder, expected a CSV file")


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_empty_file(tmp_path: Path, content: str) -> None:
    assert error_of(save(tmp_path, content)) == "is empty, expected a CSV file with a header"


def test_missing_columns(tmp_path: Path) -> None:
    path = save(tmp_path, HEADER.replace("text,", "body,") + GOOD)
    assert error_of(path).startswith("no column 'text' (data.text_column); the file has tweet_id, author_id, inbound, ")
    path = save(tmp_path, "text\nhello my friend\n")
    assert error_of(path) == "no column 'inbound' (data.filter_inbound_only is true); the file has text"
    path = save(tmp_path, ",".join(f"c{i}" for i in range(30)) + "\n")
    assert error_of(path).endswith("c18, c19 and 10 more")


def test_no_row_left(tmp_path: Path) -> None:
    path = save(tmp_path, HEADER + GOOD.replace("True", "False") * 2 + GOOD.replace("hello my friend", "hello"))
    assert error_of(path).startswith(
        "no row left after the filters (3 rows read; dropped: not_inbound 2, empty_text 0, too_short 1, "
        "duplicate_text 0)"
    )
    assert "(0 rows read;" in error_of(save(tmp_path, HEADER))


@pytest.mark.parametrize("content", [b"1,7,True,t,caf\xe9 latte please,,\n", b"1,7,True,t,\xed\xa0\x80 surrogate,,\n"])
@pytest.mark.parametrize("rows", [0, 5])
def test_undecodable_bytes(tmp_path: Path, content: bytes, rows: int) -> None:
    before = (HEADER + '9,7,True,t,"two\nlines here",,\n' * rows).encode()
    path = save(tmp_path, before + content)
    at = len(before) + next(i for i, byte in enumerate(content) if byte > 127)
    assert error_of(path) == f"line {2 + 2 * rows}, byte {at}: not UTF-8; save the file as UTF-8"


def test_another_encoding(tmp_path: Path) -> None:
    assert error_of(save(tmp_path, (HEADER + GOOD).encode("utf-16"))).startswith("line 1, byte 0: not UTF-8")


@pytest.mark.parametrize("position", range(6))
@pytest.mark.parametrize(
    ("row", "seen"),
    [
        ("9,7,True,t,hello, my friend,2,3", 8),
        ("9,7,True,t,hello, my friend,,", 8),  # shifted, with nothing but an empty field too many
        ("9,7,True,t,a,b,c,d,e,f,g", 11),
        ("9,7", 2),
        ("9,7,True,t", 4),  # ends just before the text
        ("world,,", 3),  # the second half of a text with a bare line break
    ],
)
@pytest.mark.parametrize("chunk_rows", [1, 2, 50_000])
def test_ragged_row(tmp_path: Path, row: str, seen: int, position: int, chunk_rows: int) -> None:
    rows = ['1,7,True,t,"two\nlines here",,'] * 5
    rows.insert(position, row)
    path = save(tmp_path, HEADER + "\n".join(rows) + "\n")
    expected = f"line {2 + 2 * position}: expected 7 fields, saw {seen}; "
    assert error_of(path, chunk_rows).startswith(expected)


def test_a_ragged_row_deep_in_one_large_chunk(tmp_path: Path) -> None:
    # pandas parses a large chunk in pieces of its own.
    rows = [f"{i},7,True,t,{'x' * 100} {i},," for i in range(8000)]
    for position in (0, 2047, 4096, 7999):
        ragged = [*rows]
        ragged[position] += ","
        path = save(tmp_path, HEADER + "\n".join(ragged))
        assert error_of(path, 50_000).startswith(f"line {position + 2}: expected 7 fields, saw 8")


def test_a_row_without_trailing_columns_that_nobody_uses_is_read(tmp_path: Path) -> None:
    path = save(tmp_path, HEADER + good(3) + "9,7,True,t,hello my friend\n")
    assert FederatedDataset(path, spec(), 1).frame["text"].tolist()[-1] == "hello my friend"
    path = save(tmp_path, "text,inbound\nhello my friend\n")
    assert len(FederatedDataset(path, spec(filter_inbound_only=False), 1).frame) == 1
    assert error_of(path).startswith("line 2: expected 2 fields, saw 1")


def test_blank_lines_are_no_rows(tmp_path: Path) -> None:
    path = save(tmp_path, "\n" + HEADER + "\n" + good(3) + "\n\n" + GOOD + "\n")
    dataset = FederatedDataset(path, spec(), 1, chunk_rows=2)
    assert (dataset.rows_read, len(dataset.frame)) == (4, 4)


def test_a_quote_that_is_never_closed(tmp_path: Path) -> None:
    path = save(tmp_path, HEADER + good(2) + GOOD.replace("hello", '"hello') + good(2))
    assert error_of(path) == "line 4: a quote is opened and never closed"
    path = save(tmp_path, HEADER + GOOD.replace("hello", '"hello') + good(9_000))
    assert error_of(path) == "line 2: a quote is opened and never closed"


def test_a_long_text_and_one_that_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = csv.field_size_limit()
    long = "a long story, " * 20_000
    path = save(tmp_path, HEADER + GOOD.replace("hello", f'"{long}').replace(" friend", '"'))
    assert FederatedDataset(path, spec(), 1).frame["text"].tolist() == [f"{long} my"]
    monkeypatch.setattr(reading, "MAX_FIELD", len(long))
    said = f"line 2: field larger than field limit ({len(long)}); no text is that long: is a quote opened and"
    assert error_of(path) == f"{said} never closed?"
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("method", ["iid", "non_iid"])
def test_fewer_rows_than_clients(tmp_path: Path, method: str) -> None:
    dataset = FederatedDataset(save(tmp_path, HEADER + good(10)), spec(), 1)
    assert len(dataset.partition("iid", 8)) == 8
    with pytest.raises(
        DataError, match=rf"8 training rows are too few for 9 clients \({method}\): lower federated.num_c"
    ):
        dataset.partition(method, 9)


def test_an_unknown_method_and_no_training_row(tmp_path: Path) -> None:
    path = save(tmp_path, HEADER + good(3))
    with pytest.raises(ConfigError, match="'by_moon', expected one of iid, non_iid, by_author, by_brand, dirichlet"):
        FederatedDataset(path, spec(), 1).partition("by_moon", 2)
    assert error_of(path, train_split=0.0, test_split=0.9) == "3 rows kept, none for training; see data.train_split"


# --- partitions with options


def test_by_brand_gives_each_client_one_company(tweets: FederatedDataset) -> None:
    clients = tweets.partition("by_brand", 3, 50)
    described = tweets.describe(clients)["clients"]
    assert [(row["brand"], row["author"], row["rows"], row["val_rows"]) for row in described] == [
        ("ChipotleTweets", None, 102, 15),
        ("AmazonHelp", None, 99, 14),
        ("AppleSupport", None, 80, 11),
    ]
    with pytest.raises(
        DataError, match=r"twcs_sample.csv: by_brand needs 10 brands .* 100 .* 1 of 5\d brands .* at most 1"
    ):
        tweets.partition("by_brand", 10, 100)


def test_small_authors_together(tweets: FederatedDataset) -> None:
    clients = tweets.partition("by_author", 10, 100, small="group")
    assert all(len(client.train) >= 100 and client.author is None for client in clients)
    authors = [set(tweets.train["author"].iloc[client.train]) for client in clients]
    assert sum(map(len, authors)) == len(set.union(*authors)) > 400
    for client, own in zip(clients, authors, strict=True):
        assert set(tweets.val["author"].iloc[client.val]) <= own
    assert tweets.describe(clients)["clients"][0]["authors"] == len(authors[0])


@pytest.mark.parametrize("law", ["per_class", "per_client"])
@pytest.mark.parametrize("label", ["brand", "author", "length"])
def test_the_distance_of_dirichlet_is_reported(tweets: FederatedDataset, law: str, label: str) -> None:
    clients = tweets.partition("dirichlet", 5, law=law, label=label, alpha=0.3)
    assert sorted(np.concatenate([client.train for client in clients])) == list(range(1097))
    described = tweets.describe(clients)
    rows = [row["rows"] for row in described["clients"]]
    distances = [row["label_tv"] for row in described["clients"]]
    assert described["label_tv"] == pytest.approx(np.average(distances, weights=rows))
    assert 0.2 < described["label_tv"] < 1
    if label == "author":
        names, numbers = np.unique(tweets.train["author"], return_inverse=True)
        overall = np.bincount(numbers) / 1097
        own = np.bincount(numbers[clients[0].train], minlength=len(names)) / len(clients[0].train)
        assert distances[0] == pytest.approx(np.abs(own - overall).sum() / 2)


def test_without_classes_there_is_no_distance(tweets: FederatedDataset) -> None:
    assert tweets.describe(tweets.partition("quantity", 5))["label_tv"] is None
    assert tweets.describe()["label_tv"] is None


def test_an_option_that_the_method_has_not(tweets: FederatedDataset) -> None:
    with pytest.raises(TypeError, match="alpha"):
        tweets.partition("iid", 2, alpha=1.0)
