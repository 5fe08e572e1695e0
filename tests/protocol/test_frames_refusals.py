"""What msgpack and pydantic would let pass, field by field."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
from examples import DIRECTIONS, TYPES, example

from fedmq.errors import RemoteProtocolError
from fedmq.protocol import messages as m
from fedmq.protocol.frames import Codec
from fedmq.protocol.work import TrainWork
from fedmq.recipe import Part

CODECS = {direction: Codec(kinds) for direction, kinds in DIRECTIONS.items()}
IDS = [f"{direction}: {kind.__name__}" for direction, kind in TYPES]
STRICT = ("INVALID", "NONCANONICAL")


def code(codec: Codec, header: bytes) -> str:
    """The code that `header` is refused with."""
    with pytest.raises(RemoteProtocolError) as caught:
        codec.decode(header)
    return caught.value.code


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every place in a decoded header, and what is there."""
    yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths(inner, (*path, key))


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of `value` with something else at `path`."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = put(value[path[0]], path[1:], new)
    return copy


def fields_of(direction: str, kind: type) -> dict[str, Any]:
    """The header of the type's example, as plain data."""
    plain: dict[str, Any] = msgpack.unpackb(CODECS[direction].encode(example(kind)))
    return plain


@pytest.mark.parametrize(("direction", "kind"), TYPES, ids=IDS)
def test_fields_missing_foreign_and_in_another_order(direction: str, kind: type) -> None:
    codec, header = CODECS[direction], fields_of(direction, kind)
    for path, value in paths(header):
        if not isinstance(value, dict):
            continue
        for name in value.keys() - {"v", "t"}:
            without = {key: inner for key, inner in value.items() if key != name}
            assert code(codec, msgpack.packb(put(header, path, without))) in STRICT, (path, name)
        for name in ("more", "", "__class__", "\u202e", "x" * 1000):
            assert code(codec, msgpack.packb(put(header, path, value | {name: 1}))) in STRICT, (path, name)
        for key in (b"round", 1):
            assert code(codec, msgpack.packb(put(header, path, {**value, key: 1}))) in (*STRICT, "MALFORMED")
        if len(value) > 1:
            backwards = dict(reversed(value.items()))
            assert code(codec, msgpack.packb(put(header, path, backwards))) == "NONCANONICAL", path


@pytest.mark.parametrize(("direction", "kind"), TYPES, ids=IDS)
def test_values_of_another_type(direction: str, kind: type) -> None:
    """bool, int, float, str, bytes, nil, list and map are eight types, and none stands for another."""
    codec, header = CODECS[direction], fields_of(direction, kind)
    others = (True, False, 1, 0, 1.0, 0.0, "1", "", b"1", b"", None, [], [1], {}, {"a": 1})
    optional = {"task", "client", "adapter", "max_samples_per_client", "num_threads", "cache_dir", "model"}
    optional |= {"log_dir", "layers_to_transform", "left_s", "follows", "delta", "block", "fraction", "error_feedback"}
    optional |= {"mu", "alpha", "merged"}
    for path, value in paths(header):
        if path and path[-1] not in ("v", "t"):
            for other in others:
                if type(other) is type(value) or (other is None and path[-1] in optional):
                    continue
                changed = msgpack.packb(put(header, path, other))
                if changed != msgpack.packb(header):
                    assert code(codec, changed) in STRICT, (path, value, other)


@pytest.mark.parametrize(("direction", "kind"), TYPES, ids=IDS)
def test_numbers_out_of_range(direction: str, kind: type) -> None:
    codec, header = CODECS[direction], fields_of(direction, kind)
    for path, value in paths(header):
        if path in (("v",), ()):
            continue
        if type(value) is float:
            for other in (float("nan"), float("inf"), float("-inf")):
                assert code(codec, msgpack.packb(put(header, path, other))) == "INVALID", path
        in_recipe = {"spec", "recipe", "generation"} & set(path)
        if type(value) is int and not in_recipe:
            for other in (-1, 2**53, 2**63, 2**64 - 1):
                assert code(codec, msgpack.packb(put(header, path, other))) == "INVALID", path


def test_negative_zero_and_large_floats_are_numbers() -> None:
    codec = CODECS["control to coordinator"]
    for value in (-0.0, 1e308, 5e-324):
        header = msgpack.packb(fields_of("control to coordinator", m.Evaluated) | {"loss_sum": value})
        assert str(codec.decode(header).loss_sum) == str(value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("client", "client_/../x"),
        ("client", "client_a/b"),
        ("client", "../client_1"),
        ("client", "client_"),
        ("client", "client_" + "x" * 58),
        ("client", "client_1\n"),
        ("client", "client_1\0"),
        ("client", "client_\u202e1"),
        ("task", "train-1-client_1-0\n"),
        ("task", "train-1-client_1"),
        ("task", "train--1-client_1-0"),
        ("task", "train-1-../x-0"),
        ("task", "train-1-client_1-0.safetensors/.."),
        ("task", "x" * 10_000),
        ("nonce", "CD" * 16),
        ("nonce", "cd" * 15),
        ("nonce", "cd" * 16 + "\n"),
    ],
)
def test_names_that_could_be_something_else(field: str, value: str) -> None:
    header = fields_of("control to worker", m.Tasks)
    header["tasks"][0][field] = value
    assert code(CODECS["control to worker"], msgpack.packb(header)) == "INVALID"


def test_tasks_that_do_not_go_together() -> None:
    codec = CODECS["control to worker"]
    one = dataclasses.replace(example(m.Task), work=example(TrainWork))
    smaller = dataclasses.replace(one.work, part=Part("A", 2))
    two = dataclasses.replace(one, task="train-2-client_4-0", client="client_4", work=smaller)
    header: dict[str, Any] = msgpack.unpackb(codec.encode(m.Tasks((one, two))))
    assert codec.decode(msgpack.packb(header)).tasks == (one, two)
    for other in (
        {"client": "client_3"},
        {"round": 8},
        {"adapter": None, "delta": None},
        {"delta": None},
        {"delta": header["tasks"][0]["delta"] | {"bases": ["cd" * 32]}},
        {"adapter": {"digest": "cd" * 32, "nbytes": 7}},
        {"work": {"kind": "init"}},
        {"work": header["tasks"][0]["work"] | {"recipe": header["tasks"][0]["work"]["recipe"] | {"num_epochs": 5}}},
    ):
        assert code(codec, msgpack.packb(put(header, ("tasks", 1), header["tasks"][1] | other))) == "INVALID", other
    scoring = [task | {"work": {"kind": "evaluate", "unit": "test", "batch_size": 1}} for task in header["tasks"]]
    for tasks in ([], scoring, [dict(header["tasks"][0], client=f"client_{k}") for k in range(65)]):
        assert code(codec, msgpack.packb(header | {"tasks": tasks})) == "INVALID"


@pytest.mark.parametrize("bases", [[], ["cd" * 32] * 17, ["cd"], "cd" * 32])
def test_a_delta_of_nothing_or_of_too_much(bases: Any) -> None:
    codec, header = CODECS["control to worker"], fields_of("control to worker", m.Tasks)
    delta = header["tasks"][0]["delta"]
    changed = put(header, ("tasks", 0), header["tasks"][0] | {"delta": delta | {"bases": bases}})
    assert code(codec, msgpack.packb(changed)) == "INVALID"


def test_a_delta_or_a_base_of_no_adapter() -> None:
    codec, header = CODECS["control to worker"], fields_of("control to worker", m.Tasks)
    for other in (
        {"adapter": None},
        {"adapter": None, "delta": None},
        {"delta": {}},
        {"delta": header["tasks"][0]["adapter"]},
    ):
        with pytest.raises(RemoteProtocolError, match="INVALID"):
            codec.decode(msgpack.packb(put(header, ("tasks", 0), header["tasks"][0] | other)))
    without = put(header, ("tasks", 0), header["tasks"][0] | {"adapter": None, "delta": None, "merged": None})
    assert codec.decode(msgpack.packb(without)).tasks[0].delta is None


def test_lists_that_are_too_long() -> None:
    codec = CODECS["control to coordinator"]
    ready = fields_of("control to coordinator", m.Ready)
    for name in ("outbox", "running"):
        assert code(codec, msgpack.packb(ready | {name: ready[name] * 65})) == "INVALID"
    assert code(codec, msgpack.packb(ready | {"clients": ready["clients"] * 1025})) == "INVALID"
    hello = fields_of("control to coordinator", m.Hello)
    assert code(codec, msgpack.packb(hello | {"versions": [1] * 4097})) == "MALFORMED"


ALIVE = {"v": 7, "t": "heartbeat_ack", "epoch": 7}
_PREFIX = b"\x83\xa1v\x07\xa1t\xadheartbeat_ack\xa5epoch"
assert msgpack.packb(ALIVE) == _PREFIX + b"\x07"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"\xcc\x07", "NONCANONICAL"),  # 7 in two bytes
        (b"\xd3" + struct.pack(">q", 7), "NONCANONICAL"),  # 7 in nine
        (b"\xca" + struct.pack(">f", 7.0), "NONCANONICAL"),  # a float32 that is integral
        (b"\xc3", "NONCANONICAL"),  # true
        (b"\xa17", "NONCANONICAL"),  # "7"
        (b"\xdd\xff\xff\xff\xff", "MALFORMED"),  # a list of 2^32 - 1
        (b"\xdf\xff\xff\xff\xff", "MALFORMED"),  # a map
        (b"\xc6\xff\xff\xff\xff", "MALFORMED"),  # bytes
        (b"\xdb\xff\xff\xff\xff", "MALFORMED"),  # a string
        (b"\xa2\xff\xfe", "MALFORMED"),  # not UTF-8
        (b"\xa3\xed\xa0\x80", "MALFORMED"),  # a surrogate
        (b"\xc1", "MALFORMED"),  # reserved
        (b"\xd4\x05x", "MALFORMED"),  # ext
        (b"\xd6\xff\0\0\0\0", "MALFORMED"),  # timestamp
        (b"\xc7\0\x05", "INVALID"),  # ext without bytes
        (b"\xc7\0\xff", "MALFORMED"),  # timestamp without bytes
        (b"\x91" * 1000 + b"\x90", "INVALID"),
        (b"\x91" * 100_000 + b"\x90", "MALFORMED"),
        (b"\xdc\x10\x01" + b"\x80" * 4097, "MALFORMED"),  # 4,097 empty maps
        (b"\xde\0\x41" + b"".join(b"\xa2%02d\x80" % i for i in range(65)), "MALFORMED"),  # a map of 65
    ],
    ids=lambda value: value[:8].hex() if isinstance(value, bytes) else value,
)
def test_msgpack_that_is_not_ours(value: bytes, expected: str) -> None:
    assert code(CODECS["control to worker"], _PREFIX + value) == expected


def test_a_duplicate_key() -> None:
    for value in (b"\x07", b"\x08"):
        header = b"\x84" + _PREFIX[1:] + b"\x07" + b"\xa5epoch" + value
        assert code(CODECS["control to worker"], header) == "NONCANONICAL"


def test_a_million_empty_maps_are_refused_by_size() -> None:
    assert code(CODECS["control to worker"], b"\xdd\x00\x0f\x42\x40" + b"\x80" * 10**6) == "TOO_LARGE"


@pytest.mark.parametrize("depth", [100, 990, 1000, 1020])
@pytest.mark.parametrize("name", ["v", "t", "epoch"])
def test_deep_nesting_overflows_no_stack(name: str, depth: int) -> None:
    deep = b"\x91" * depth + b"\x90"
    values = {"v": b"\x01", "t": b"\xadheartbeat_ack", "epoch": b"\x07"} | {name: deep}
    header = b"\x83" + b"".join(msgpack.packb(key) + value for key, value in values.items())
    assert code(CODECS["control to worker"], header) in ("VERSION", "MALFORMED", "INVALID")


def test_the_message_does_not_repeat_the_peers_text() -> None:
    secret = "\u202e\x1b[31mremote text"
    for fields in ({"round": secret}, {secret: 1}):
        with pytest.raises(RemoteProtocolError) as caught:
            CODECS["control to worker"].decode(msgpack.packb(ALIVE | fields))
        text = str(caught.value)
        assert text.isascii() and text.isprintable() and len(text) < 200
