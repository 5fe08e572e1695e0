"""The bundled sample: what the generator writes is what is committed, and is what the quickstart needs."""

from __future__ import annotations

import csv
import re
from collections import Counter
from datetime import datetime
from pathlib import Path

import pytest

import fedmq
from fedmq.data import sample
from fedmq.data.sample_brands import BRANDS
from fedmq.data.sample_personas import COMMON, PERSONAS

COMMITTED = Path(fedmq.__file__).parent / "assets" / "support_tweets.csv"

Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def rows() -> Rows:
    return list(sample.generate(3600, seed=7))


def inbound(rows: Rows) -> Rows:
    return [row for row in rows if row["inbound"] == "True"]


def test_the_committed_file_is_the_generators_output(tmp_path: Path) -> None:
    made = tmp_path / "made.csv"
    sample.write_csv(made, num_tweets=3600, seed=7)
    assert made.read_bytes() == COMMITTED.read_bytes()


def test_a_csv_reader_gives_the_rows_back(rows: Rows) -> None:
    with COMMITTED.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        assert tuple(reader.fieldnames or ()) == sample.COLUMNS
        assert list(reader) == rows


def test_another_seed_gives_other_rows() -> None:
    assert list(sample.generate(50, seed=7)) != list(sample.generate(50, seed=8))


@pytest.mark.parametrize("num_tweets", [0, 1, 17])
def test_gives_exactly_as_many_rows_as_asked(num_tweets: int) -> None:
    rows = list(sample.generate(num_tweets, seed=3))
    assert [row["tweet_id"] for row in rows] == [str(i) for i in range(1, num_tweets + 1)]


def test_most_rows_come_from_customers(rows: Rows) -> None:
    assert len(rows) == 3600
    assert len(inbound(rows)) >= 2200


def test_volumes_are_very_different(rows: Rows) -> None:
    volumes = Counter(row["author_id"] for row in inbound(rows))
    assert sum(volume >= 130 for volume in volumes.values()) >= 6
    assert sum(volume <= 3 for volume in volumes.values()) >= 80


def test_customers_are_numbers_and_brands_are_names(rows: Rows) -> None:
    assert all(row["author_id"].isdigit() == (row["inbound"] == "True") for row in rows)
    assert len({row["author_id"] for row in rows if row["inbound"] == "False"}) == 8


def test_texts_hardly_repeat(rows: Rows) -> None:
    texts = [row["text"] for row in rows]
    assert len(texts) - len(set(texts)) < 0.02 * len(texts)
    assert max(map(len, texts)) <= 280
    assert not any("{" in text or "  " in text for text in texts)


@pytest.mark.parametrize("what", ["@", "https://t.co/", "&amp;", "&lt;", "&gt;", "#", "😡", "\n"])
def test_texts_have_what_tweets_have(rows: Rows, what: str) -> None:
    assert sum(what in row["text"] for row in rows) > 5


def test_answers_refer_to_each_other(rows: Rows) -> None:
    by_id = {row["tweet_id"]: row for row in rows}
    answers = [row for row in rows if row["in_response_to_tweet_id"]]
    assert len(answers) > 1000
    for row in answers:
        asked = by_id[row["in_response_to_tweet_id"].removesuffix(".0")]
        assert asked["response_tweet_id"] == row["tweet_id"]
        assert asked["inbound"] != row["inbound"]
        assert int(asked["tweet_id"]) < int(row["tweet_id"])


def test_times_are_twitters_and_ascend(rows: Rows) -> None:
    times = [datetime.strptime(row["created_at"], "%a %b %d %H:%M:%S %z %Y") for row in rows]
    assert times == sorted(times)


def test_each_busy_customer_has_a_vocabulary_of_its_own(rows: Rows) -> None:
    volumes = Counter(row["author_id"] for row in inbound(rows))
    gamer, grandmother = (
        " ".join(row["text"] for row in inbound(rows) if row["author_id"] == author)
        for author in (customer(rows, "bruh"), customer(rows, "Dorothy"))
    )
    assert len(volumes) > 100
    assert "starfall" in gamer and "grandson" not in gamer
    assert "grandson" in grandmother and "starfall" not in grandmother.lower()


def slots_in(*phrases: str) -> set[str]:
    return set(re.findall(r"\{(\w+)\}", " ".join(phrases)))


def test_every_slot_of_every_phrase_has_alternatives() -> None:
    for brand in BRANDS:
        known = brand.slots.keys() | COMMON.keys() | {"hash"}
        common = [phrase for name, phrase in COMMON.items() if name not in brand.slots]
        assert slots_in(brand.problems, brand.praises, brand.answers, *brand.slots.values(), *common) <= known
        for persona in PERSONAS:
            if brand.handle in persona.brands:
                assert slots_in(persona.remarks, *persona.slots.values()) <= known | persona.slots.keys()


def customer(rows: Rows, word: str) -> str:
    """The customer who uses a word most."""
    return Counter(row["author_id"] for row in inbound(rows) if word in row["text"]).most_common(1)[0][0]


def test_the_command_writes_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "few.csv"
    monkeypatch.setattr("sys.argv", ["sample", "--out", str(out), "--num-tweets", "5", "--seed", "1"])
    sample.main()
    assert len(out.read_text(encoding="utf-8").splitlines()) >= 6
