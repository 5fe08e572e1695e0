"""B40 to B54 of docs/bad-input.md: what a worker may upload instead of its update.

Each row is refused with its code by the check itself, and by a coordinator in the middle of a round: the attempt
has failed, nothing of it is in the journal, and another worker ends the round.
"""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conducting import Bench, Script, finishing, standing, task_in, training
from serving import adapter, give, offer, started

from fedmq.codec import raw
from fedmq.errors import RemoteProtocolError
from fedmq.protocol import messages as m
from fedmq.protocol.jobs import Status
from fedmq.runtime.screening import UpdateLimits

GOOD = adapter(1)
A, B = sorted(GOOD)
BLOB = raw.encode(GOOD)
(NBYTES,) = struct.unpack("<Q", BLOB[:8])
HEADER: dict[str, Any] = json.loads(BLOB[8 : 8 + NBYTES])
DATA = BLOB[8 + NBYTES :]
END = len(DATA)
PICKLE = b"\x80\x04cposix\nsystem\n(S'true'\ntR."


def file(header: Any, data: bytes = DATA) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(**fields: Any) -> bytes:
    """The true file, with the first tensor's entry changed."""
    return file(HEADER | {A: HEADER[A] | fields})


def with_a(value: np.ndarray) -> bytes:
    return raw.encode(GOOD | {A: value})


def one(value: float) -> bytes:
    changed = GOOD[A].copy()
    changed[0, 0] = value
    return with_a(changed)


def packed() -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        archive.writestr("archive/data.pkl", PICKLE)
    return memory.getvalue()


def renamed(name: str) -> bytes:
    return file({(name if key == A else key): value for key, value in HEADER.items()})


REFUSED: dict[str, tuple[Callable[[], list[bytes]], str]] = {
    "B40 less than 8 bytes": (lambda: [b"\0", b"\0" * 7], "SAFETENSORS"),
    "B41 lengths of the header": (
        lambda: [struct.pack("<Q", n) + BLOB[8:] for n in (0, len(BLOB), 2**63, 2**64 - 1, 2**20 + 1)],
        "SAFETENSORS",
    ),
    "B42 no JSON, an array, not beginning with {": (
        lambda: [file(text) for text in (b"no JSON", b"[1, 2]", b" " + json.dumps(HEADER).encode(), b"[" * 9000)],
        "SAFETENSORS",
    ),
    "B43 a name twice": (
        lambda: [file((json.dumps(HEADER)[:-1] + ", " + json.dumps({A: HEADER[A]})[1:]).encode())],
        "SAFETENSORS",
    ),
    "B44 other names": (lambda: [*map(renamed, ("c", "../../etc/passwd", "", "x" * 10**5, "\ud800"))], "SCHEMA"),
    "B44 a name too few": (lambda: [raw.encode({A: GOOD[A]}), raw.encode({})], "SCHEMA"),
    "B45 dtypes that we do not know": (
        lambda: [entry(dtype=name) for name in ("I8", "BOOL", "F8_E4M3", "BF16", "Q7", None)],
        "SAFETENSORS",
    ),
    "B45 a dtype of another run": (lambda: [with_a(GOOD[A].astype(np.float64))], "SCHEMA"),
    "B46 transposed, or of one dimension more": (
        lambda: [with_a(GOOD[A].T.copy()), with_a(GOOD[A][None])],
        "SCHEMA",
    ),
    "B46 shapes that are none": (
        lambda: [entry(shape=shape) for shape in ([1] * 10**4, [0], [2**62], [4, -6], [4.0, 6], [True, 24])],
        "SAFETENSORS",
    ),
    "B47 offsets that overlap, leave a hole, end before they begin, or beyond the file": (
        lambda: [
            entry(data_offsets=pair) for pair in ([0, 100], [4, 100], [96, 0], [0, END + 4], [0, 2**63], [-4, 92])
        ],
        "SAFETENSORS",
    ),
    "B47 bytes too many, or too few": (lambda: [BLOB + b"\0", BLOB[:-1]], "SAFETENSORS"),
    "B48 200,000 tensors": (
        lambda: [file({f"t{k}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for k in range(200_000)}, b"")],
        "SAFETENSORS",
    ),
    "B49 metadata": (
        lambda: [file({"__metadata__": value} | HEADER) for value in ({"a": 1}, {}, {"a": "x" * 2**20}, 7)],
        "SAFETENSORS",
    ),
    "B50 one NaN or infinity": (lambda: [*map(one, (float("nan"), float("inf"), -float("inf")))], "NONFINITE"),
    "B51 a norm of a million times the others'": (
        lambda: [raw.encode({name: 1e6 * value for name, value in GOOD.items()}), one(3e38)],
        "NORM",
    ),
    "B52 another rank, another model": (
        lambda: [
            raw.encode({A: np.ones((8, 6), np.float32), B: np.ones((5, 8), np.float32)}),
            raw.encode({"w": GOOD[A]}),
        ],
        "SCHEMA",
    ),
    "B53 zip, pickle, and files that are two formats at once": (
        lambda: [PICKLE, packed(), PICKLE + BLOB, packed() + BLOB, BLOB + packed()],
        "SAFETENSORS",
    ),
}


@pytest.mark.parametrize("row", REFUSED)
def test_refused(tmp_path: Path, row: str) -> None:
    make, code = REFUSED[row]
    contents = make()
    server = started(tmp_path / "check", limits=UpdateLimits(1000.0, 384))
    before = server.journal.updates()
    tracemalloc.start()
    for content in contents:
        with pytest.raises(RemoteProtocolError) as caught:
            server.check(offer("train-1-client_1-0", content), content)
        assert caught.value.code == code
        assert len(str(caught.value)) < 300 and str(caught.value).isprintable()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert server.journal.updates() == before and peak < 32 << 20

    bench = Bench(tmp_path / "run")
    hand, other = bench.hand(), bench.hand("w1", boot="b")

    def script() -> Script:
        yield from training(hand)
        other.ready()
        yield
        other.heard()
        meta_and_rows = standing(bench)[1:3]
        yield from finishing(hand, contents[0])
        (verdict,) = [reply for reply in hand.said if isinstance(reply, m.Verdict)]
        assert (verdict.code, verdict.text.split(":")[0]) == ("INVALID", code)
        assert standing(bench)[1:3] == meta_and_rows
        (job,) = bench.coordinator.state.roster.of_kind("train")
        assert (job.failures, job.status, job.worker) == (1, Status.ASSIGNED, "w1")
        other.task = task_in(other.heard())  # type: ignore[attr-defined]
        yield from finishing(other)

    bench.play(script())
    bench.close()
    assert [row["worker"] for row in bench.server.journal.updates(1)] == ["w1"]


ACCEPTED: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "B50 all zero": ({name: np.zeros_like(value) for name, value in GOOD.items()}, ""),
    "B50 all subnormal": ({name: np.full_like(value, 1e-45) for name, value in GOOD.items()}, ""),
    "B50 the adapter as it came": (adapter(0), "the update is zero"),
    "B54 only -0.0": ({name: np.full_like(value, -0.0) for name, value in GOOD.items()}, ""),
}


@pytest.mark.parametrize("row", ACCEPTED)
def test_accepted(bench: Bench, row: str) -> None:
    tensors, remark = ACCEPTED[row]
    hand = bench.hand()

    def script() -> Script:
        yield from training(hand)
        yield from finishing(hand, raw.encode(tensors))

    bench.play(script())
    assert bench.server.journal.last_committed() == 1
    assert bool(remark) == any("the update is zero" in note for note in bench.view.notes)
    committed = bench.server.blobs.read(bench.server.journal.digest(1))
    for name, value in raw.decode(committed, raw.read_spec(committed)).items():
        start = adapter(0)[name].astype(np.float64)
        expected = (start + (tensors[name].astype(np.float64) - start)).astype(np.float32)
        assert value.tobytes() == expected.tobytes()


@pytest.mark.parametrize("row", ["B54 subnormals beside normal numbers fold as in plain arithmetic"])
def test_subnormals_fold(tmp_path: Path, row: str) -> None:
    server = started(tmp_path)
    server.open_round(1, [["client_1"], ["client_2"]])
    local = [{name: np.full_like(value, x) for name, value in GOOD.items()} for x in (-0.0, 3e-45)]
    for client, tensors in zip((1, 2), local, strict=True):
        give(server, f"train-1-client_{client}-0", tensors, num_examples=client)
    server.aggregate(1, ["client_1", "client_2"])
    content = server.blobs.read(server.journal.digest(1))
    for name, value in raw.decode(content, raw.read_spec(content)).items():
        start = adapter(0)[name].astype(np.float64)
        mean = sum(w * (t[name].astype(np.float64) - start) for w, t in zip((1.0, 2.0), local, strict=True)) / 3.0
        assert value.tobytes() == (start + mean).astype(np.float32).tobytes()


@pytest.mark.parametrize("content", [b'{"a": ' * 2500, b"[" * 16_000, b'{"a": NaN}', b'{"a": 1e999}'])
def test_a_first_adapter_with_a_config_that_is_none(tmp_path: Path, content: bytes) -> None:
    """The stack is not deep enough for all that JSON may nest, and JSON has no infinity."""
    server = started(tmp_path)
    update = offer("init-0-adapter-0", raw.encode(GOOD), adapter_config=content.decode())
    with pytest.raises(RemoteProtocolError, match="adapter_config"):
        server.start(update, raw.encode(GOOD))


def test_a_first_adapters_config_is_written_in_our_hand(tmp_path: Path) -> None:
    server = started(tmp_path)
    config = '{"a": "\u202e", "a": "\u202d", "peft_type": "LORA"}'
    server.start(offer("init-0-adapter-0", raw.encode(GOOD), adapter_config=config), raw.encode(GOOD))
    written = (tmp_path / "blobs" / "adapter_config.json").read_text()
    assert json.loads(written) == {"a": "\u202d", "peft_type": "LORA"} and written.isascii()
