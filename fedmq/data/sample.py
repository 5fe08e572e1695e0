"""Makes the bundled sample: support tweets in the schema of the twcs data set, all invented.

Usage: python -m fedmq.data.sample --out fedmq/assets/support_tweets.csv --num-tweets 3600 --seed 7

Customers write to brands, brands answer, customers write back. A few customers write very much,
most write little, and each has a voice (see `sample_personas`). The bytes depend on the two numbers
only: every draw goes through `random.Random.random`, whose sequence Python promises to keep.
"""

from __future__ import annotations

import argparse
import csv
import random
import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple, TypeVar

from fedmq.data.sample_brands import BRANDS, Brand
from fedmq.data.sample_personas import COMMON, PERSONAS

COLUMNS = ("tweet_id", "author_id", "inbound", "created_at", "text", "response_tweet_id", "in_response_to_tweet_id")

_START = datetime(2017, 10, 1, 6, 0, 0)
_DAYS = 60
_ROWS_PER_CUSTOMER = 9
_SHORT_FORMS = {
    "you": "u", "your": "ur", "are": "r", "please": "pls", "because": "bc", "minutes": "mins", "hours": "hrs",
    "thanks": "thx", "with": "w/", "and": "&amp;", "right now": "rn", "to": "2", "going to": "gonna",
}  # fmt: skip
_T = TypeVar("_T")


class _Customer(NamedTuple):
    author_id: str
    brands: tuple[Brand, ...]
    slots: dict[str, str]
    remarks: str
    habits: dict[str, float]
    weight: float


class _Tweet(NamedTuple):
    author_id: str
    inbound: bool
    time: datetime
    text: str
    parent: int | None  # index of the tweet that it answers, in the list of all


def _pick(rng: random.Random, items: Sequence[_T]) -> _T:
    return items[int(rng.random() * len(items))]


def _weighted(rng: random.Random, customers: Sequence[_Customer], total: float) -> _Customer:
    left = rng.random() * total
    for customer in customers:
        left -= customer.weight
        if left < 0:
            return customer
    return customers[-1]


def _alternative(rng: random.Random, phrases: str) -> str:
    return _pick(rng, phrases.split(" / "))


def _fill(rng: random.Random, phrase: str, *tables: dict[str, str]) -> str:
    """Replace each {slot}, the innermost first, by an alternative from the first table that has it."""

    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        if name == "hash":
            return "".join(_pick(rng, "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789") for _ in range(10))
        return _alternative(rng, next(table[name] for table in tables if name in table))

    while "{" in phrase:
        phrase = re.sub(r"\{(\w+)\}", replace, phrase)
    return phrase


def _customers(rng: random.Random, count: int) -> list[_Customer]:
    """The eight heavy writers first, then a Zipf tail of borrowed voices."""
    by_handle = {brand.handle: brand for brand in BRANDS}
    author = 115_700
    people = []
    for k in range(count):
        author += 1 + int(rng.random() * 40)
        if k < len(PERSONAS):
            voice = PERSONAS[k]
            handles, slots, remarks, habits = voice.brands, voice.slots, voice.remarks, voice.habits
            weight = 1.0 - 0.025 * k
        else:
            voice = _pick(rng, PERSONAS)
            handles = (_pick(rng, voice.brands),)
            slots = {name: voice.slots[name] for name in ("opening", "ask", "emoji") if name in voice.slots}
            remarks = "{more}"
            habits = {name: 0.5 * p for name, p in voice.habits.items()} | {"typo": 0.3 * rng.random()}
            weight = 0.9 / (k - len(PERSONAS) + 1) ** 1.05
        people.append(_Customer(str(author), tuple(by_handle[h] for h in handles), slots, remarks, habits, weight))
    return people


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    ended = re.search(r"[.!?]$|\{link\}$|https://\S+$|^\{\w+\}$", text)  # a whole slot brings its own end
    return text if ended else text + "."


def _typo(rng: random.Random, text: str) -> str:
    """Swap two neighbouring letters inside one of the longer words."""
    words = text.split(" ")
    long = [i for i, word in enumerate(words) if len(word) > 4 and word.isalpha()]
    if long:
        i = _pick(rng, long)
        at = 1 + int(rng.random() * (len(words[i]) - 3))
        word = words[i]
        words[i] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)


def _typed(rng: random.Random, customer: _Customer, text: str) -> str:
    """Text as this customer types it: short forms, case, punctuation, typos. Links and entities stay."""

    def chance(habit: str) -> bool:
        return rng.random() < customer.habits.get(habit, 0.0)

    short, lower, caps, nopunct, bang, typo = map(chance, ("short", "lower", "caps", "nopunct", "bang", "typo"))
    if typo:
        text = _typo(rng, text)
    parts = re.split(r"(https://\S+|&\w+;|@\w+)", text)
    for i in range(0, len(parts), 2):
        part = parts[i]
        if short:
            for word, form in _SHORT_FORMS.items():
                part = re.sub(rf"\b{word}\b", form, part)
        if lower:
            part = part.lower()
        if caps:
            words = part.split(" ")
            words = [word.upper() if len(word) > 3 and rng.random() < 0.3 else word for word in words]
            part = " ".join(words)
        if nopunct:
            part = re.sub(r"[.,!](?= |$)", "", part)
        if bang:
            part = re.sub(r"\.(?= |$)", "!!" if rng.random() < 0.5 else "!", part)
        parts[i] = part
    return "".join(parts)


def _opening_tweet(rng: random.Random, customer: _Customer, brand: Brand, praise: bool) -> str:
    habits, words = customer.habits, (customer.slots, brand.slots, COMMON)
    body = []
    if rng.random() < 0.35:
        body.append("{opening}, " + _alternative(rng, brand.praises if praise else brand.problems))
    else:
        body.append(_sentence(_alternative(rng, brand.praises if praise else brand.problems)))
    if praise:
        body.append("{thanks}" if rng.random() < 0.4 else "")
    else:
        if rng.random() < 0.35 + 0.5 * habits.get("long", 0.0):
            body.append(_sentence(_alternative(rng, customer.remarks)) if rng.random() < 0.6 else "{more}")
        if rng.random() < 0.45:
            body.append("{feeling}")
        if rng.random() < 0.5:
            body.append("{ask}")
    text = _typed(rng, customer, _fill(rng, " ".join(_sentence(part) for part in body if part), *words))
    if rng.random() < habits.get("emoji", 0.15):
        text += " " + _fill(rng, "{happy}" if praise else "{emoji}", *words)
    if rng.random() < habits.get("tag", 0.2):
        text += " " + _fill(rng, "{tag}", *words)
    if rng.random() < habits.get("link", 0.12):
        text += " " + _fill(rng, "{link}", *words)
    if rng.random() < 0.5 * habits.get("formal", 0.0):
        text += " " + _fill(rng, "{sign}", *words)
    text = f"{text.rstrip()} @{brand.handle}" if rng.random() < 0.1 else f"@{brand.handle} {text.rstrip()}"
    return text


def _follow_up(rng: random.Random, customer: _Customer, brand: Brand, solved: bool) -> str:
    words = (customer.slots, brand.slots, COMMON)
    phrase = "{thanks}" if solved else "{follow}"
    if not solved and rng.random() < 0.85:
        extra = _sentence(_alternative(rng, customer.remarks))
        phrase += " " + _pick(rng, ("{feeling}", "{ask}", "{more}", extra))
    text = _typed(rng, customer, _sentence(_fill(rng, phrase, *words)))
    if rng.random() < customer.habits.get("emoji", 0.15):
        text += " " + _fill(rng, "{happy}" if solved else "{emoji}", *words)
    return f"@{brand.handle} {text}"


def _answer(rng: random.Random, customer: _Customer, brand: Brand, kind: str) -> str:
    if kind == "welcome":
        phrase = "{welcome} {wish}"
    elif rng.random() < 0.75:
        phrase = "{sorry}. " + _sentence(_alternative(rng, brand.answers)) + (" {assure}" if rng.random() < 0.4 else "")
    else:
        phrase = _sentence(_alternative(rng, brand.answers)) + " {assure}"
    if rng.random() < 0.2:
        phrase += " {brandmoji}"
    phrase += "\n{agent}" if rng.random() < 0.08 else " {agent}"
    return f"@{customer.author_id} " + _fill(rng, phrase, brand.slots, COMMON)


def _thread(rng: random.Random, customer: _Customer, first: int) -> list[_Tweet]:
    """One conversation; `first` is the index of its first tweet."""
    brand = _pick(rng, customer.brands)
    time = _START + timedelta(seconds=int(rng.random() * _DAYS * 86_400))
    praise = rng.random() < customer.habits.get("praise", 0.1)
    tweets = [_Tweet(customer.author_id, True, time, _opening_tweet(rng, customer, brand, praise), None)]
    solved = praise
    while rng.random() < 0.62:
        time += timedelta(seconds=120 + int(rng.random() * 7_000))
        text = _answer(rng, customer, brand, "welcome" if solved else "help")
        tweets.append(_Tweet(brand.handle, False, time, text, first + len(tweets) - 1))
        if solved or rng.random() < 0.35:
            break
        solved = rng.random() < 0.4
        time += timedelta(seconds=60 + int(rng.random() * 9_000))
        text = _follow_up(rng, customer, brand, solved)
        tweets.append(_Tweet(customer.author_id, True, time, text, first + len(tweets) - 1))
    return tweets


def generate(num_tweets: int, seed: int) -> Iterator[dict[str, str]]:
    """Support tweets in order of time, with ids from 1.

    Args:
      num_tweets: how many rows.
      seed: the same number gives the same rows, under every Python from 3.10 on.

    Yields:
      one dict per tweet, keyed by `COLUMNS`, all values as text in the file.

    Example:
      >>> rows = list(generate(20, seed=7))
      >>> len(rows), rows[0]["tweet_id"], sorted({row["inbound"] for row in rows})
      (20, '1', ['False', 'True'])
    """
    rng = random.Random(seed)
    customers = _customers(rng, max(2 * len(PERSONAS), num_tweets // _ROWS_PER_CUSTOMER))
    total = sum(customer.weight for customer in customers)
    tweets: list[_Tweet] = []
    while len(tweets) < num_tweets:
        tweets += _thread(rng, _weighted(rng, customers, total), len(tweets))
    del tweets[num_tweets:]

    order = sorted(range(num_tweets), key=lambda i: (tweets[i].time, i))
    tweet_id = {index: position + 1 for position, index in enumerate(order)}
    answers = {tweet.parent: tweet_id[i] for i, tweet in enumerate(tweets) if tweet.parent is not None}
    for index in order:
        tweet = tweets[index]
        yield {
            "tweet_id": str(tweet_id[index]),
            "author_id": tweet.author_id,
            "inbound": str(tweet.inbound),
            # ctime names days and months in English, whatever the locale.
            "created_at": f"{tweet.time.ctime()[:8]}{tweet.time:%d %H:%M:%S} +0000 {tweet.time.year}",
            "text": tweet.text,
            "response_tweet_id": str(answers.get(index, "")),
            "in_response_to_tweet_id": "" if tweet.parent is None else f"{tweet_id[tweet.parent]}.0",
        }


def write_csv(path: Path, num_tweets: int, seed: int) -> None:
    """Write the generated tweets as a UTF-8 CSV file with a header."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(generate(num_tweets, seed))


def main() -> None:
    """Parse the command line and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--num-tweets", type=int, default=3600)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    write_csv(arguments.out, arguments.num_tweets, arguments.seed)


if __name__ == "__main__":
    main()
