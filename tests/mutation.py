"""Valid bytes, made invalid in the ways that parsers dislike: drawn from a seed, the same again on every machine."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

#: Lengths and markers at which msgpack, JSON and 64-bit numbers turn into something else.
PIECES = (
    *(b"\x00", b"\xff", b"\xc0", b"\xc1", b"\xc2", b"\xc3", b"\x80", b"\x90", b"\xa0", b"\x7f", b"\xe0"),
    *(b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"),
    *(b"\xcf" + b"\xff" * 8, b"\xd3\x80" + b"\0" * 7, b"\xcb\x7f\xf8" + b"\0" * 6, b"\xcb\x7f\xf0" + b"\0" * 6),
    *(b"\xc7\x00\x05", b"\xd6\xff\0\0\0\0", b"\xc8\xff\xff\x01", b"\xa2\xff\xfe", b"\xa3\xed\xa0\x80"),
    *(b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\ud800", b"NaN", b"-Infinity", b"1e999", b"-1", b"null"),
    *(
        b"18446744073709551616",
        b"9" * 5000,
        b'"__metadata__":{"a":"b"},',
        b'"dtype":"F64"',
        b"[" * 2000,
        b"\x91" * 1100,
    ),
)


def mutants(corpus: Sequence[bytes], seed: int, count: int) -> Iterator[bytes]:
    """`count` variants of these, each with one to four changes."""
    draw = random.Random(seed)
    for _ in range(count):
        content = bytearray(draw.choice(corpus))
        for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 4))):
            draw.choice(_CHANGES)(draw, content, corpus)
        yield bytes(content)


def _place(draw: random.Random, content: bytearray) -> int:
    return draw.randrange(len(content)) if content else 0


def _flip(draw: random.Random, content: bytearray, corpus: Sequence[bytes]) -> None:
    if content:
        content[_place(draw, content)] ^= 1 << draw.randrange(8)


def _byte(draw: random.Random, content: bytearray, corpus: Sequence[bytes]) -> None:
    if content:
        content[_place(draw, content)] = draw.randrange(256)


def _insert(draw: random.Random, content: bytearray, corpus: Sequence[bytes]) -> None:
    at = _place(draw, content)
    content[at:at] = draw.choice(PIECES)


def _replace(draw: random.Random, content: bytearray, corpus: Sequence[bytes]) -> None:
    at, piece = _place(draw, content), draw.choice(PIECES)
    content[at : at + len(piece)] = piece


def _cut(draw: random.Random, content: bytearray, corpus: Sequence[bytes]) -> None:
    del content[_place(draw, content) :]


def _remove(draw: random.Random, content: bytearray, corpus: Sequence[bytes]) -> None:
    at = _place(draw, content)
    del content[at : at + draw.randrange(1, 9)]


def _repeat(draw: random.Random, content: bytearray, corpus: Sequence[bytes]) -> None:
    at = _place(draw, content)
    content[at:at] = content[at : at + draw.randrange(1, 65)]


def _splice(draw: random.Random, content: bytearray, corpus: Sequence[bytes]) -> None:
    other = draw.choice(corpus)
    content[_place(draw, content) :] = other[draw.randrange(len(other) or 1) :]


_CHANGES: tuple[Callable[[random.Random, bytearray, Sequence[bytes]], None], ...] = (
    *(_flip, _flip, _byte, _byte, _insert, _insert, _replace, _replace),
    *(_cut, _remove, _repeat, _splice),
)
