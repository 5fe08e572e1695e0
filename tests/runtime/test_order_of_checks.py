"""docs/bad-input.md, "Order of checks": of several things that are wrong with one message, the first is named.

The order keeps bad input cheap: nothing is decoded for who is out, and no file is read for a claim that is a lie.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from conducting import DATA_UP, UP, Bench, Script, finishing, training, update_of, verdicts
from serving import adapter, offer, started

from fedmq.codec import raw
from fedmq.errors import RemoteProtocolError
from fedmq.protocol import messages as m
from fedmq.protocol.frames import MAX_HEADER_NBYTES
from fedmq.protocol.limits import MAX_STRIKES
from fedmq.runtime.links import Links
from fedmq.runtime.screening import UpdateLimits
from fedmq.transport.base import Incoming

#: What is wrong with the header of an offer, the cheapest to see first. Each is true of the fields, or of their bytes.
OF_FIELDS: dict[str, dict[str, Any]] = {
    "VERSION": {"v": 999},
    "UNKNOWN_TYPE": {"t": "shell"},
    "INVALID": {"num_steps": -1},
    "NONCANONICAL": {"train_loss": 2},
    "NONCE": {"nonce": "00" * 16},
    "CONFLICT": {"blob": {"digest": "ab" * 32, "nbytes": 0}},
}
OF_BYTES: dict[str, Callable[[bytes], tuple[bytes, ...]]] = {
    "frames": lambda header: (header + b"\0" * MAX_HEADER_NBYTES, b""),
    "TOO_LARGE": lambda header: (header + b"\0" * MAX_HEADER_NBYTES,),
    "MALFORMED": lambda header: (header + b"\0",),
}
#: The one code that two things have: a message of two frames, and a header that is no msgpack.
CODES = {"frames": "MALFORMED: 2 frames"}


@pytest.mark.parametrize("first", [*OF_BYTES, *OF_FIELDS])
def test_of_all_that_is_wrong_with_a_message_the_first_is_named(bench: Bench, first: str) -> None:
    hand, bad = bench.hand(), bench.hand("bad", boot="b")
    order = [*OF_BYTES, *OF_FIELDS]
    wrong = order[order.index(first) :]

    def script() -> Script:
        yield from training(hand)
        update, content = update_of(hand)
        bad.hello()
        bad.say(update)
        yield
        fields: dict[str, Any] = msgpack.unpackb(UP.encode(update))
        for name in wrong:
            fields |= OF_FIELDS.get(name, {})
        header = msgpack.packb(fields)
        bad.inject(*OF_BYTES[first](header) if first in OF_BYTES else (header,))
        yield
        notes = [note for note in bench.view.notes if "a message of bad was refused: " in note]
        if first == "VERSION":
            assert not notes and any("a worker was refused: VERSION" in note for note in bench.view.notes)
        else:
            assert [CODES.get(first, first) in note for note in notes] == [True], notes
        yield from finishing(hand, content)

    bench.play(script())
    assert bench.server.journal.last_committed() == 1


def test_nothing_is_decoded_for_who_is_out_or_floods(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a thousand messages would be a thousand times the work: here it is three of a name and three of its link."""
    hand, bad = bench.hand(), bench.hand("bad", boot="b")
    decoded: list[tuple[bytes, ...]] = []
    decode = Links.decode

    def counted(links: Links, incoming: Incoming) -> Any:
        decoded.append(incoming.frames)
        return decode(links, incoming)

    def script() -> Script:
        yield from training(hand)
        bad.hello()
        yield
        bad.heard()
        monkeypatch.setattr(Links, "decode", counted)
        for _ in range(1000):
            bad.inject(b"no msgpack")
        yield
        assert decoded == [(b"no msgpack",)] * 2 * MAX_STRIKES
        assert [reply.code for reply in bad.heard()] == ["QUARANTINED"]
        monkeypatch.undo()
        yield from finishing(hand)

    bench.play(script())


LIMITS = UpdateLimits(max_norm=1000.0, max_tokens_per_example=384)
GOOD = adapter(1)
A, B = sorted(GOOD)
HUGE = {name: np.full_like(value, 1e30) for name, value in GOOD.items()}
NAN = {name: np.full_like(value, np.nan) for name, value in GOOD.items()}
OTHER = {"c": NAN[A], B: NAN[B]}
NO_FILE = raw.encode(OTHER) + b"\0"
#: What is claimed, and what came; of each all that stands below it is true as well.
UPDATES: dict[str, tuple[dict[str, Any], bytes]] = {
    "EMPTY": ({"num_examples": 10**9, "num_tokens": 0}, NO_FILE),
    "EXAMPLES": ({"num_examples": 10**9, "num_tokens": 10**15}, NO_FILE),
    "TOKENS": ({"num_tokens": 10**15}, NO_FILE),
    "SAFETENSORS": ({}, NO_FILE),
    "SCHEMA": ({}, raw.encode(OTHER)),
    "NONFINITE": ({}, raw.encode(HUGE | {A: NAN[A]})),
    "NORM": ({}, raw.encode(HUGE)),
}


@pytest.mark.parametrize("first", UPDATES)
def test_of_all_that_is_wrong_with_an_update_the_first_is_named(tmp_path: Path, first: str) -> None:
    claims, content = UPDATES[first]
    with pytest.raises(RemoteProtocolError) as caught:
        started(tmp_path, limits=LIMITS).check(offer("train-1-client_1-0", content, **claims), content)
    assert caught.value.code == first


def test_a_file_is_looked_at_when_it_is_the_one_that_was_offered(bench: Bench) -> None:
    """The digest comes before what is in it: bytes that are none of an adapter are asked for once more."""
    hand = bench.hand()

    def script() -> Script:
        yield from training(hand)
        update, content = update_of(hand, num_examples=10**9)
        hand.say(update)
        yield
        assert verdicts(hand.heard()) == ["UPLOAD"]
        hand.inject(DATA_UP.encode(m.Put(update.nonce, update.blob.digest, 0)), b"!" * len(content), plane="data")
        yield
        assert verdicts(hand.heard()) == []
        hand.put(update, content)
        yield
        (verdict,) = [reply for reply in hand.heard() if isinstance(reply, m.Verdict)]
        assert verdict.text.startswith("EXAMPLES")
        yield from finishing(hand)

    bench.play(script())
