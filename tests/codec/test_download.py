"""Versions as deltas: both ends hold the same bits, and what is lost of one is in the next."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmq import tensors
from fedmq.codec import raw
from fedmq.codec.download import DownloadCodec, download_codec
from fedmq.codec.update import BY_NAME
from fedmq.errors import RemoteProtocolError
from fedmq.recipe import CodecSpec

LOSSY = [name for name in BY_NAME if name != "fp32"]
Tensors = dict[str, np.ndarray]


def codec_of(name: str, **options: Any) -> DownloadCodec:
    return download_codec(CodecSpec(name, **dict.fromkeys(("block", "fraction", "error_feedback")) | options))


def adapter(seed: int) -> Tensors:
    draw = np.random.default_rng(seed)
    return {"A": draw.normal(size=(8, 40)).astype(np.float32), "B": draw.normal(0, 0.1, (50, 8)).astype(np.float32)}


def stepped(params: tensors.NamedTensors, seed: int, factors: str = "AB") -> Tensors:
    """A server's step of a ten-thousandth or so, of these factors."""
    draw = np.random.default_rng(seed)
    return {n: (v + (n in factors) * draw.normal(1e-4, 1e-4, v.shape)).astype(np.float32) for n, v in params.items()}


def close(a: tensors.NamedTensors, b: tensors.NamedTensors, atol: float) -> None:
    for name in b:
        np.testing.assert_allclose(a[name], b[name], rtol=0, atol=atol)


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("rounds", [1, 12])
def test_both_ends_hold_the_same_bits_and_the_sums_agree(name: str, rounds: int) -> None:
    """sum(x_r - x_(r-1)) + e_n = sum(y_r - x_(r-1)): x_n + e_n is x_0 and all that the steps were."""
    codec, server, residual = codec_of(name), adapter(0), {}
    worker, wanted = raw.decode(raw.encode(server), tensors.spec(server)), tensors.zeros_like(server)
    for round in range(rounds):
        y = stepped(server, round + 1)
        wanted = tensors.add(wanted, tensors.subtract(y, server))
        new = codec.publish(y, server, residual)
        assert new.delta is not None
        worker, server, residual = codec.decode(new.delta, worker), dict(new.adapter), dict(new.residual)
        assert raw.encode(worker) == raw.encode(server), "the file that its digest names"
        assert {n: v.dtype for n, v in residual.items()} == {n: np.dtype(np.float32) for n in server}
    moved = tensors.add(tensors.subtract(server, adapter(0)), residual)
    close(moved, wanted, atol=1e-8 * rounds)
    assert tensors.l2_norm(residual) > 0, "these do lose something"


@pytest.mark.parametrize("name", ["int4", "sign", "topk"])
def test_without_feedback_what_is_lost_is_lost(name: str) -> None:
    """After 12 rounds the sum of what was sent is much nearer to the sum of the steps with it than without."""
    missed = []
    for feedback in (True, False):
        codec, x, residual = codec_of(name, error_feedback=feedback), adapter(0), {}
        wanted = tensors.zeros_like(x)
        for round in range(12):
            y = stepped(x, round + 1)
            wanted = tensors.add(wanted, tensors.subtract(y, x))
            new = codec.publish(y, x, residual)
            x, residual = dict(new.adapter), dict(new.residual)
        missed.append(tensors.l2_norm(tensors.subtract(wanted, tensors.subtract(x, adapter(0)))))
        assert bool(residual) is feedback
    assert missed[0] < 0.75 * missed[1], missed


def test_fp32_changes_nothing_and_has_no_delta_where_all_or_nothing_moved() -> None:
    codec, x = codec_of("fp32"), adapter(0)
    for y in (stepped(x, 1), dict(x)):
        new = codec.publish(y, x, {})
        assert new.adapter is y and (new.delta, new.residual) == (None, {})


def test_under_fp32_only_what_moved_travels_to_the_bit() -> None:
    codec, x = codec_of("fp32"), adapter(0)
    x["A"][0, 0] = 0.0
    y = stepped(x, 1, "B")
    new = codec.publish(y, x, {})
    assert new.adapter is y and new.delta == raw.encode({"B": y["B"]})
    assert raw.encode(codec.decode(new.delta, x)) == raw.encode(y)
    other_zero = {**y, "A": x["A"].copy()}
    other_zero["A"][0, 0] = -0.0
    assert codec.publish(other_zero, x, {}).delta is None, "it is another file"


@pytest.mark.parametrize(
    ("junk", "said"),
    [
        (lambda x: raw.encode({"C": x["B"]}), "SCHEMA: tensor 'C' does not belong here"),
        (lambda x: raw.encode({"B": x["B"][1:]}), "SCHEMA: tensor 'B' is float32"),
        (lambda x: raw.encode({"B": x["B"] * np.float32(np.nan)}), "NONFINITE"),
        (lambda x: raw.encode({"B": x["B"]})[:-1], "SAFETENSORS"),
    ],
)
def test_junk_in_place_of_what_moved_is_refused(junk: Any, said: str) -> None:
    with pytest.raises(RemoteProtocolError, match=said):
        codec_of("fp32").decode(junk(adapter(0)), adapter(0))


@pytest.mark.parametrize("name", LOSSY)
def test_a_factor_that_a_round_freezes_stays_to_the_bit_and_its_residual_waits(name: str) -> None:
    codec, x = codec_of(name), adapter(0)
    first = codec.publish(stepped(x, 1), x, {})
    second = codec.publish(stepped(first.adapter, 2, "B"), first.adapter, first.residual)
    assert np.array_equal(second.adapter["A"], first.adapter["A"])
    assert np.array_equal(second.residual["A"], first.residual["A"]) and first.residual["A"].any()
    assert not np.array_equal(second.adapter["B"], first.adapter["B"])
    third = codec.publish(stepped(second.adapter, 3), second.adapter, second.residual)
    freed = tensors.add(third.adapter, third.residual)["A"]
    expected = stepped(second.adapter, 3)["A"].astype(np.float64) + first.residual["A"]
    np.testing.assert_allclose(freed, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", LOSSY)
def test_frozen_from_the_start(name: str) -> None:
    codec, x = codec_of(name), adapter(0)
    new = codec.publish(stepped(x, 1, "B"), x, {})
    assert np.array_equal(new.adapter["A"], x["A"]) and not new.residual["A"].any()


def test_a_step_that_leads_beyond_float32_is_refused() -> None:
    largest = float(np.finfo(np.float32).max)
    x = {"w": np.full(64, 0.9 * largest, np.float32)}
    y = {"w": np.full(64, largest, np.float32)}
    residual = {"w": np.full(64, 0.5 * largest, np.float32)}
    with pytest.raises(RemoteProtocolError, match="NONFINITE: tensor 'w' leads beyond float32"):
        codec_of("sign").publish(y, x, residual)


@given(st.binary(max_size=400), st.sampled_from(LOSSY))
def test_junk_is_refused(content: bytes, name: str) -> None:
    with pytest.raises(RemoteProtocolError):
        codec_of(name).decode(content, adapter(0))


@given(st.data(), st.sampled_from(LOSSY))
def test_a_damaged_delta_is_refused_or_gives_an_adapter(data: st.DataObject, name: str) -> None:
    """Never another exception; that it is another adapter is for its digest to say."""
    x = adapter(0)
    content = bytearray(codec_of(name).publish(stepped(x, 1), x, {}).delta or b"")
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = codec_of(name).decode(bytes(content), x)
    except RemoteProtocolError:
        return
    assert tensors.spec(found) == tensors.spec(x) and all(np.isfinite(v).all() for v in found.values())
