"""Which company a tweet is for: by its conversation, near before far, else by the company that it mentions."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmq.config import resolve_dataset_path
from fedmq.data.brands import conversation_brands, find_brands
from fedmq.data.dataset import FederatedDataset
from fedmq.errors import DataError
from fedmq.recipe import DataSpec

SPEC = DataSpec("text", "author_id", 0.8, 0.1, 0.1, filter_min_length=1, filter_inbound_only=True)
COLUMNS = ("tweet_id", "author_id", "inbound", "created_at", "text", "response_tweet_id", "in_response_to_tweet_id")


def brands(folder: Path, tweets: list[tuple[Any, ...]], **spec: Any) -> dict[str, str]:
    """text -> brand, of tweets given as (id, author, replies to, text); an author in capitals is a company."""
    path = folder / "tweets.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for number, author, parent, text in tweets:
            writer.writerow([number, author, not author[:1].isupper(), "today", text, "", parent])
    dataset = FederatedDataset(path, DataSpec(**{**vars(SPEC), **spec}), 1)
    found = find_brands(path, dataset.columns, dataset.data, dataset.frame, "by_brand")
    return dict(zip(dataset.frame["text"], found, strict=True))


def test_the_company_that_answered_or_was_answered(tmp_path: Path) -> None:
    found = brands(
        tmp_path,
        [
            (1, "7", "", "my phone is broken"),
            (2, "Acme", 1, "try to turn it on"),
            (3, "7", 2, "it is on"),
            (4, "8", 3, "mine is broken too"),
            (5, "9", "", "nobody answers me"),
        ],
    )
    assert found == {
        "my phone is broken": "Acme",
        "it is on": "Acme",
        "mine is broken too": "Acme",
        "nobody answers me": "",
    }


def test_what_is_above_goes_before_what_is_below_and_near_before_far(tmp_path: Path) -> None:
    found = brands(
        tmp_path,
        [
            (1, "Acme", "", "news"),
            (2, "7", 1, "answered by another company"),
            (3, "Delta", 2, "we can help"),
            (4, "7", 3, "the one just above"),
            (5, "8", "", "two companies below"),
            (6, "9", 5, "one of them is near"),
            (7, "Acme", 6, "far"),
            (8, "Delta", 5, "near"),
        ],
    )
    assert found == {
        "answered by another company": "Acme",
        "the one just above": "Delta",
        "two companies below": "Delta",
        "one of them is near": "Acme",
    }


def test_of_two_answers_the_first_in_the_file(tmp_path: Path) -> None:
    tweets = [(1, "7", "", "hello"), (3, "Delta", 1, "first"), (2, "Acme", 1, "second")]
    assert brands(tmp_path, tweets) == {"hello": "Delta"}
    assert brands(tmp_path, [tweets[2], *tweets[:2]]) == {"hello": "Acme"}


def test_a_tweet_beside_an_answered_one(tmp_path: Path) -> None:
    """It replies to a customer, whom a company answered."""
    tweets = [(1, "7", "", "my phone"), (2, "Acme", 1, "turn it on"), (3, "8", 1, "mine too"), (4, "9", 3, "and mine")]
    assert brands(tmp_path, tweets) == dict.fromkeys(["my phone", "mine too", "and mine"], "Acme")


def test_mentions_count_where_the_conversation_says_nothing(tmp_path: Path) -> None:
    found = brands(
        tmp_path,
        [
            (1, "7", "", "@Unknown @acme @Delta: the first company of the file"),
            (2, "7", "", "@Acme answered by Delta"),
            (3, "Delta", 2, "we can help"),
            (4, "Acme", 99, "to somebody who is not in the file"),
            (5, "8", "", "a@acme.example is no mention, nor is @AcmeHelp"),
        ],
    )
    assert found == {
        "@Unknown @acme @Delta: the first company of the file": "Acme",
        "@Acme answered by Delta": "Delta",
        "a@acme.example is no mention, nor is @AcmeHelp": "",
    }


def test_dropped_rows_are_parts_of_conversations(tmp_path: Path) -> None:
    tweets = [(1, "7", "", "no"), (2, "7", 1, "the long story"), (3, "Acme", 1, "yes"), (4, "Delta", 8, "other")]
    assert brands(tmp_path, tweets, filter_min_length=5) == {"the long story": "Acme"}


def test_companies_rows_are_theirs(tmp_path: Path) -> None:
    tweets = [(1, "7", "", "hello"), (2, "Acme", 1, "hi"), (3, "Delta", 2, "may I help too")]
    found = brands(tmp_path, tweets, filter_inbound_only=False)
    assert found == {"hello": "Acme", "hi": "Acme", "may I help too": "Delta"}


def test_circles_strays_and_numbers_that_occur_twice_end(tmp_path: Path) -> None:
    found = brands(
        tmp_path,
        [
            (1, "7", 1, "to itself"),
            (2, "7", 3, "round"),
            (3, "8", 2, "and round"),
            (4, "9", 404, "to nobody here"),
            (5, "7", "", "twice"),
            (5, "7", "", "once more"),
            (6, "Acme", 5, "to the first of them"),
            ("", "7", "", "without a number"),
            (7, "Acme", "", "to nobody"),
        ],
    )
    assert found.pop("twice") == "Acme"
    assert set(found.values()) == {""} and len(found) == 6


def test_numbers_that_some_tool_has_written_as_floats(tmp_path: Path) -> None:
    tweets = [("1.0", "7", "", "hello"), (2, "Acme", "1.0", "hi")]
    assert brands(tmp_path, tweets) == {"hello": "Acme"}
    tweets = [(2**53 + 1, "7", "", "large"), (1, "Acme", 2**53 + 1, "hi"), (2, "Delta", 2**53, "to another")]
    assert brands(tmp_path, tweets) == {"large": "Acme"}


@pytest.mark.parametrize("value", ["x7", "1.5", "-3", "1e6"])
def test_a_number_that_is_none(tmp_path: Path, value: str) -> None:
    said = f"column 'in_response_to_tweet_id' of data row 2 is '{value}', expected a tweet's number"
    with pytest.raises(DataError, match=said.replace(".", r"\.")):
        brands(tmp_path, [(1, "7", "", "hello"), (2, "7", value, "hi there")])


@pytest.mark.parametrize("column", ["tweet_id", "in_response_to_tweet_id", "inbound", "author_id"])
def test_a_missing_column(tmp_path: Path, column: str) -> None:
    brands(tmp_path, [(1, "7", "", "hello"), (2, "Acme", 1, "hi")])
    path = tmp_path / "tweets.csv"
    path.write_text(path.read_text().replace(column, "another", 1))
    dataset = FederatedDataset(path, DataSpec(**{**vars(SPEC), "filter_inbound_only": False}), 1)
    said = rf"no column '{column}' \(by_brand finds companies by their conversations\); the file has "
    with pytest.raises(DataError, match=said):
        dataset.partition("by_brand", 2)


def slow(numbers: list[int], parents: list[int], company: list[int]) -> list[int]:
    """The same, one tweet after another."""
    first: dict[int, int] = {}
    for row, number in enumerate(numbers):
        if number >= 0:
            first.setdefault(number, row)
    up = [first.get(parent, -1) if parent >= 0 else -1 for parent in parents]

    def way(row: int) -> list[int]:
        seen: list[int] = []
        while row >= 0 and row not in seen:
            seen.append(row)
            row = up[row]
        return seen

    def below(row: int) -> int:
        level, seen = [row], {row}
        while level:
            replies = [r for r in range(len(up)) if up[r] in level]
            level = [r for r in replies if r not in seen and company[r] < 0]
            found = [r for r in replies if company[r] >= 0]
            if found:
                return company[found[0]]
            seen |= set(level)
        return -1

    result = []
    for row in range(len(up)):
        above = [company[r] for r in way(row) if company[r] >= 0]
        across = [below(r) for r in way(row) if below(r) >= 0]
        result.append(above[0] if above else across[0] if across else -1)
    return result


@given(st.lists(st.tuples(st.integers(-1, 12), st.integers(-1, 3)), min_size=1, max_size=12), st.randoms())
def test_conversations_agree_with_a_slow_walk(tweets: list[tuple[int, int]], dice: random.Random) -> None:
    """Trees: a circle says nothing that anybody wants, it must only end. Companies in any places."""
    count = len(tweets)
    numbers = dice.sample(range(100, 100 + count), count)
    parents = [numbers[parent] if 0 <= parent < row else -1 for row, (parent, _) in enumerate(tweets)]
    company = [who for _, who in tweets]
    order = dice.sample(range(count), count)
    shuffled = [[column[i] for i in order] for column in (numbers, parents, company)]
    found = conversation_brands(*(np.array(column, np.int64) for column in shuffled))
    assert found.tolist() == slow(*shuffled)


def test_real_tweets(shared_data: Path) -> None:
    dataset = FederatedDataset(shared_data / "twcs_sample.csv", SPEC, 42)
    clients = dataset.partition("by_brand", 5, 50)
    assert [client.brand for client in clients] == [
        "ChipotleTweets",
        "AmazonHelp",
        "AppleSupport",
        "Delta",
        "Uber_Support",
    ]
    assert all(client.author is None for client in clients)
    found = find_brands(dataset.path, dataset.columns, dataset.data, dataset.frame, "by_brand")
    with open(dataset.path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    by_number = {row["tweet_id"]: row for row in rows}
    answered = {row["in_response_to_tweet_id"].removesuffix(".0"): row for row in reversed(rows)}
    direct = 0
    for row, brand in zip(dataset.frame["row"], found, strict=True):
        above = by_number.get(rows[row]["in_response_to_tweet_id"].removesuffix(".0"))
        near = above or answered[rows[row]["tweet_id"]]
        if near["inbound"] == "False":
            assert brand == near["author_id"]
            direct += 1
        assert brand, "whole conversations: every customer was answered"
    assert direct > 1100, "of 1371"


def test_the_bundled_sample() -> None:
    dataset = FederatedDataset(resolve_dataset_path("bundled"), SPEC, 42)
    clients = dataset.partition("by_brand", 8, 100)
    assert {client.brand for client in clients} == {
        *("CrossRail_Help", "QuillApps", "PixelForge", "DashPlate"),
        *("HarborBank", "VoltMobile", "Marlowes", "NimbusAir"),
    }
    # Most of its tweets name their company in the text, which the conversation must not contradict.
    for client in clients:
        named = [text for text in dataset.texts("train", client.train) if f"@{client.brand}" in text]
        assert len(named) > 0.9 * len(client.train)
    assert sum(len(client.train) for client in clients) == len(dataset.train), "nobody's are none"
