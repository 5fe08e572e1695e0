"""Codecs of deltas by algebra: what comes back, what is lost, and that error feedback loses nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from deltas import CODECS, DELTAS, LOSSY, gaussian, relative_error, spec, there_and_back
from hypothesis import example, given
from hypothesis import strategies as st

from fedmq import build, tensors
from fedmq.codec.bfloat16 import from_bfloat16, to_bfloat16
from fedmq.codec.update import BY_NAME, update_codec
from fedmq.errors import LocalProtocolError, RemoteProtocolError
from fedmq.recipe import CodecSpec


@given(st.sampled_from(sorted(CODECS)), DELTAS)
def test_what_was_sent_once_comes_back_unchanged_from_then_on(name: str, delta: dict[str, np.ndarray]) -> None:
    """Also: equal bytes for equal tensors, in whatever order and memory layout."""
    codec = CODECS[name]
    sent = there_and_back(codec, delta)
    assert tensors.spec(sent) == spec(delta)
    if not name.startswith("topk") or all((value != 0).all() for value in sent.values()):
        again = there_and_back(codec, sent)
        assert all(np.array_equal(sent[tensor], again[tensor]) for tensor in sent)
    turned = {tensor: np.array(value, order="F") for tensor, value in reversed(delta.items())}
    assert codec.encode(turned, codec.init(turned))[0] == codec.encode(delta, codec.init(delta))[0]


@given(DELTAS)
def test_fp32_loses_nothing(delta: dict[str, np.ndarray]) -> None:
    assert tensors.digest(there_and_back(CODECS["fp32"], delta)) == tensors.digest(delta)


@given(DELTAS)
def test_floats_are_rounded_to_nearest(delta: dict[str, np.ndarray]) -> None:
    for name, bits, least in (("bf16", 8, 0.0), ("fp16", 11, 2.0**-25)):
        sent = there_and_back(CODECS[name], delta)
        for tensor, value in delta.items():
            bound = np.maximum(2.0**-bits * np.abs(value.astype(np.float64)), least)
            # Half a unit of the last place: at most 2^-bits of the value, and of subnormal numbers the least step.
            assert (np.abs(sent[tensor] - value.astype(np.float64)) <= np.maximum(bound, 1e-40)).all()


@given(st.integers(0, 2**32 - 1))
def test_bfloat16_is_the_nearest_and_even_of_two(bits: int) -> None:
    value = np.array([bits], np.uint32).view(np.float32)
    if not np.isfinite(value).all():
        return
    got = int(to_bfloat16(value)[0])
    low, rest = divmod(bits, 1 << 16)
    expected = low + (rest > 0x8000 or (rest == 0x8000 and low % 2 == 1))
    assert got == (expected if expected & 0x7F80 != 0x7F80 else expected - 1), "and never infinity"
    assert from_bfloat16(np.array([got], np.uint16)).view(np.uint32)[0] == got << 16


@given(DELTAS, st.integers(1, 9))
@example({"a": np.array([2.8211864e-37], np.float32)}, 1)
def test_integers_are_within_half_a_step(delta: dict[str, np.ndarray], block: int) -> None:
    for name, levels in (("int8", 127), ("int4", 7)):
        sent = there_and_back(build.codec(name, block=block), delta)
        for tensor, value in delta.items():
            row, got = value.ravel().astype(np.float64), sent[tensor].ravel()
            for begin in range(0, row.size, block):
                most = np.abs(row[begin : begin + block]).max()
                # A scale below 1.2e-38 has fewer bits: it may be 2**-134 off, and so may each of its multiples.
                half = most / levels * (1 + 2.0**-8) / 2 + levels * 2.0**-134
                assert (np.abs(row[begin : begin + block] - got[begin : begin + block]) <= half).all()


@given(DELTAS)
def test_sign_has_the_best_scale_of_each_tensor(delta: dict[str, np.ndarray]) -> None:
    sent = there_and_back(CODECS["sign"], delta)
    for tensor, value in delta.items():
        if not value.size:
            continue
        scale = np.abs(value).mean(dtype=np.float64)
        assert np.allclose(np.abs(sent[tensor]), scale, rtol=1e-7, atol=1e-44)
        assert (np.sign(sent[tensor]) == np.where(value >= 0, 1, -1)).all() or np.float32(scale) == 0
        # |x - s sign(x)|^2 = |x|^2 - n s^2
        lost = np.square(sent[tensor] - value.astype(np.float64)).sum()
        assert np.isclose(lost, np.square(value, dtype=np.float64).sum() - value.size * scale**2, rtol=1e-4, atol=1e-4)


@given(DELTAS, st.sampled_from([0.001, 0.1, 0.5, 1.0]))
def test_topk_keeps_the_largest(delta: dict[str, np.ndarray], fraction: float) -> None:
    sent = there_and_back(build.codec("topk", fraction=fraction), delta)
    for tensor, value in delta.items():
        row, got = np.abs(value.ravel()), np.abs(sent[tensor].ravel())
        count = min(row.size, max(1, round(fraction * row.size)))
        largest = np.sort(row)[row.size - count :]
        scale = np.float32(largest.mean(dtype=np.float64)) if count else 0
        assert np.isclose(got, scale).sum() >= count and set(got.tolist()) <= {0.0, float(scale)}
        if scale:
            assert np.count_nonzero(got) == count
            assert np.isclose(row[got > 0].sum(dtype=np.float64), largest.sum(dtype=np.float64))


@given(st.lists(st.integers(0, 700), min_size=1, max_size=20))
def test_places_however_far_apart(gaps: list[int]) -> None:
    """One byte counts to 254 only."""
    places = np.cumsum(np.array(gaps) + 1) - 1
    delta = {"w": np.zeros(int(places[-1]) + 1 + gaps[0], np.float32)}
    delta["w"][places] = 1.0
    # Half a value more than there are: `round` gives the count back.
    fraction = min(1.0, len(places) / delta["w"].size)
    assert np.array_equal(there_and_back(build.codec("topk", fraction=fraction), delta)["w"], delta["w"])


@pytest.mark.parametrize("name", LOSSY)
def test_error_feedback_loses_nothing(name: str) -> None:
    """sum(sent) + residual = sum(deltas), and the residual stays of the size of a delta."""
    codec = LOSSY[name]
    state = codec.init(gaussian())
    sent, wanted = tensors.zeros_like(gaussian()), tensors.zeros_like(gaussian())
    for round in range(30):
        delta = gaussian(round)
        content, state = codec.encode(delta, state)
        sent = tensors.add(sent, codec.decode(content, spec(delta)))
        wanted = tensors.add(wanted, delta)
        for tensor in delta:
            assert np.allclose(sent[tensor] + state[tensor], wanted[tensor], rtol=0, atol=1e-9)
    assert tensors.l2_norm(state) < 6 * tensors.l2_norm(gaussian())


@given(
    st.lists(DELTAS.map(lambda delta: delta["b"].ravel()[:1]), min_size=1, max_size=8), st.sampled_from(sorted(LOSSY))
)
def test_error_feedback_of_any_deltas(values: list[np.ndarray], name: str) -> None:
    codec, state, sent = LOSSY[name], LOSSY[name].init({"w": values[0]}), 0.0
    for value in values:
        content, state = codec.encode({"w": value}, state)
        sent += float(codec.decode(content, {"w": ("float32", (1,))})["w"][0])
    wanted = sum(float(value[0]) for value in values)
    assert np.isclose(sent + float(state["w"][0]), wanted, rtol=1e-5, atol=1e-2 * 2**-8)


def test_without_error_feedback_nothing_is_remembered() -> None:
    delta = gaussian()
    for name in BY_NAME:
        codec = build.codec(name, **({} if name == "fp32" else {"error_feedback": False}))
        content, state = codec.encode(delta, codec.init(delta))
        assert state == codec.init(delta) == {}
        assert codec.encode(delta, state)[0] == content


def test_arguments_are_left_as_they_are() -> None:
    delta, state = gaussian(), gaussian(1)
    before = tensors.digest(delta), tensors.digest(state)
    LOSSY["sign"].encode(delta, state)
    assert (tensors.digest(delta), tensors.digest(state)) == before


@pytest.mark.parametrize("name", LOSSY)
def test_a_state_of_other_tensors(name: str) -> None:
    for state in ({}, {"lora_A": np.zeros(3, np.float32)}):
        with pytest.raises(LocalProtocolError, match="other tensors"):
            LOSSY[name].encode(gaussian(), state)


@pytest.mark.parametrize("name", CODECS)
def test_what_is_not_finite_is_not_encoded(name: str) -> None:
    for value in (np.nan, np.inf):
        delta = {"w": np.array([1, value], np.float32)}
        with pytest.raises(ValueError, match="not finite"):
            CODECS[name].encode(delta, CODECS[name].init(delta))


def test_the_largest_numbers_stay_numbers() -> None:
    largest = np.finfo(np.float32).max
    for name, codec in CODECS.items():
        for value in (largest, -largest):
            sent = there_and_back(codec, {"w": np.full(4, value, np.float64) * 2})
            assert np.isfinite(sent["w"]).all(), name
            assert set(np.sign(sent["w"])) <= {0, np.sign(value)}, name


def test_how_many_bytes_and_how_much_is_lost() -> None:
    """On Gaussian numbers: bits a value, and the share of the square that is lost, as theory has them."""
    delta = gaussian(size=1 << 18)
    num = sum(value.size for value in delta.values())
    expected = {
        "fp32": (32.01, 0.0),
        "bf16": (12.0, 3e-6),
        "int8": (8.1, 5.5e-5),
        "int4": (4.1, 1.2e-2),
        "sign": (1.01, 1 - 2 / np.pi + 0.01),
        "topk": (0.42, 0.83),
    }
    for name, (bits, lost) in expected.items():
        content, _ = CODECS[name].encode(delta, CODECS[name].init(delta))
        assert 8 * len(content) / num <= bits, name
        assert relative_error(CODECS[name], delta) <= lost, name


def test_an_update_is_the_adapter_less_what_was_lost() -> None:
    base, local = gaussian(1), tensors.astype(tensors.add(gaussian(1), gaussian(2)), np.float32)
    for name in BY_NAME:
        codec = update_codec(CodecSpec(name, None, None, None))
        content, _ = codec.encode(local, base, codec.init(base))
        adapter = codec.decode(content, base)
        assert tensors.spec(adapter) == tensors.spec(base)
        if name == "fp32":
            assert tensors.digest(adapter) == tensors.digest(local)
            continue
        delta = build.codec(name)
        sent = delta.decode(content, spec(base))
        assert tensors.digest(adapter) == tensors.digest(tensors.astype(tensors.add(base, sent), np.float32))


def test_an_update_that_leads_beyond_float32() -> None:
    largest = {"w": np.array([3e38], np.float32)}
    content, _ = build.codec("sign").encode(largest, {"w": np.zeros(1, np.float32)})
    with pytest.raises(RemoteProtocolError, match="NONFINITE: tensor 'w' leads beyond float32"):
        update_codec(CodecSpec("sign", None, None, None)).decode(content, largest)


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("int4", {"block": 0}, "need block from 1 to 65536, got 0"),
        ("int8", {"block": 64.0}, "got 64.0"),
        ("int8", {"block": True}, "got True"),
        ("topk", {"fraction": 0}, "need fraction in (0, 1], got 0"),
        ("topk", {"fraction": 1.1}, "got 1.1"),
        ("topk", {"fraction": "much"}, "got 'much'"),
        ("topk", {"fraction": float("nan")}, "got nan"),
        ("sign", {"error_feedback": 1}, "need error_feedback true or false, got 1"),
    ],
    ids=json.dumps,
)
def test_options_that_cannot_be(name: str, options: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        build.codec(name, **options)
    assert text in str(caught.value)
