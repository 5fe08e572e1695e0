"""Updates of which only a part of the adapter travels: what comes back, what is refused, what waits."""

from __future__ import annotations

import numpy as np
import pytest

from fedmq import tensors
from fedmq.codec import raw
from fedmq.codec.part import of_part, start
from fedmq.codec.update import BY_NAME, UpdateCodec, update_codec
from fedmq.errors import RemoteProtocolError
from fedmq.recipe import CodecSpec, Part

A, B, BIAS = "m.lora_A.weight", "m.lora_B.weight", "m.bias"
RANK, D_IN, D_OUT = 4, 70, 50
#: part -> number of values in it
PARTS = {
    Part("B", None): D_OUT * RANK + D_OUT,
    Part("A", None): D_IN * RANK + D_OUT,
    Part("both", 3): (D_IN + D_OUT) * 3 + D_OUT,
    Part("B", 1): D_OUT + D_OUT,
    Part("both", RANK): (D_IN + D_OUT) * RANK + D_OUT,
}


def adapter(seed: int, size: float = 1.0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    shapes = {BIAS: (D_OUT,), A: (RANK, D_IN), B: (D_OUT, RANK)}
    return {name: (size * draw.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}


def codec_of(name: str) -> UpdateCodec:
    return update_codec(CodecSpec(name, None, None, None))


def trained(part: Part, base: tensors.NamedTensors, seed: int) -> dict[str, np.ndarray]:
    """What a client makes of what it starts from: everything moves that it has."""
    begun = start(part, base)
    moved = start(part, tensors.add(begun, adapter(seed, 1e-2)))
    return tensors.astype(moved, np.float32)


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_exact_uploads_bring_the_part_and_leave_the_rest(part: Part) -> None:
    base, codec = adapter(0), of_part(codec_of("fp32"), part)
    local = trained(part, base, 1)
    content, state = codec.encode(local, base, {})
    assert state == {} and not codec.whole
    assert sum(np.prod(shape) for _, shape in raw.read_spec(content).values()) == PARTS[part]
    found, begun = codec.decode(content, base), start(part, base)
    for name in base:
        expected = begun if {"A": B, "B": A}.get(part.sent) == name else local
        assert np.array_equal(found[name], expected[name]), name


@pytest.mark.parametrize("name", sorted(BY_NAME))
@pytest.mark.parametrize("part", PARTS, ids=str)
def test_every_codec_is_of_the_part_alone(part: Part, name: str) -> None:
    base, codec = adapter(0), of_part(codec_of(name), part)
    content, _ = codec.encode(trained(part, base, 1), base, codec.init(base))
    found, begun = codec.decode(content, base), start(part, base)
    assert tensors.spec(found) == tensors.spec(base)
    if part.sent != "both":
        still = {"A": B, "B": A}[part.sent]
        assert np.array_equal(found[still], begun[still])
    if part.rank is not None:
        assert not found[A][part.rank :].any() and not found[B][:, part.rank :].any()
    if name != "fp32":
        whole = codec_of(name)
        assert len(content) < len(whole.encode(trained(part, base, 1), base, whole.init(base))[0]) or part.rank == RANK


def test_the_whole_is_as_it_was() -> None:
    codec = codec_of("int4")
    assert of_part(codec, Part("both", None)) is codec
    base = adapter(0)
    assert start(Part("A", None), base) is base


@pytest.mark.parametrize("name", ["fp32", "int8"])
@pytest.mark.parametrize("sent", [Part("both", None), Part("A", None), Part("B", 2), Part("B", RANK + 1)], ids=str)
def test_another_part_is_refused(name: str, sent: Part) -> None:
    """A frozen tensor too many, a trained one too few, another rank."""
    base = adapter(0) if sent.rank is None or sent.rank <= RANK else {A: np.ones((5, D_IN)), B: np.ones((D_OUT, 5))}
    base = tensors.astype(base, np.float32)
    theirs, ours = (of_part(codec_of(name), part) for part in (sent, Part("B", None)))
    content, _ = theirs.encode(trained(sent, base, 1) if BIAS in base else base, base, theirs.init(base))
    with pytest.raises(RemoteProtocolError, match="SCHEMA") as refused:
        ours.decode(content, adapter(0))
    if name == "fp32":
        expected = {
            Part("both", None): f"tensor '{A}' does not belong here",
            Part("A", None): f"tensor '{A}' does not belong here",
            Part("B", 2): f"tensor '{B}' is float32 (50, 2), expected float32 (50, 4)",
            Part("B", RANK + 1): f"tensor '{BIAS}' is missing",
        }[sent]
        assert expected in str(refused.value)


@pytest.mark.parametrize("name", ["sign", "topk"])
def test_error_feedback_of_what_is_not_sent_waits(name: str) -> None:
    """RoLoRA's turns: over them all, what was sent and what is remembered add up to all that was learnt."""
    base, state = adapter(0), codec_of(name).init(adapter(0))
    sums = {what: tensors.zeros_like(base) for what in ("sent", "learnt")}
    for round in range(1, 6):
        part = Part("B" if round % 2 else "A", None)
        codec, before = of_part(codec_of(name), part), state
        local = trained(part, base, round)
        content, state = codec.encode(local, base, state)
        still, moving = (A, B) if part.sent == "B" else (B, A)
        assert np.array_equal(state[still], before[still]) and not np.array_equal(state[moving], before[moving])
        found = codec.decode(content, base)
        for tensor in (moving, BIAS):
            sums["sent"][tensor] += found[tensor].astype(float) - base[tensor]
            sums["learnt"][tensor] += local[tensor].astype(float) - base[tensor]
    for tensor in base:
        np.testing.assert_allclose(sums["sent"][tensor] + state[tensor], sums["learnt"][tensor], atol=2e-6)


def test_what_is_remembered_is_of_the_clients_rank() -> None:
    codec, base = of_part(codec_of("sign"), Part("both", 3)), adapter(0)
    _, state = codec.encode(trained(Part("both", 3), base, 1), base, codec.init(base))
    assert (state[A].shape, state[B].shape) == ((3, D_IN), (D_OUT, 3))
