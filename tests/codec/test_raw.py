"""The raw codec against everything that a peer may send instead of an adapter."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
import zipfile
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from fedmq import tensors
from fedmq.codec import raw
from fedmq.errors import RemoteProtocolError

ADAPTER = {"a": np.array([[1.0, 2.0], [3.0, 4.0]], np.float32), "b": np.array([-0.0], np.float32)}
SPEC = tensors.spec(ADAPTER)
BLOB = raw.encode(ADAPTER)
DATA = BLOB[8 + struct.unpack("<Q", BLOB[:8])[0] :]
HEADER = {
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "F32", "shape": [1], "data_offsets": [16, 20]},
}
#: A reduce that would run a command if anything unpickled it.
PICKLE = b"\x80\x04cposix\nsystem\n(S'true'\ntR."


def blob(header: Any, data: bytes = DATA) -> bytes:
    """A file with this header, as JSON or as bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(name: str, **fields: Any) -> dict[str, Any]:
    """The true header with one tensor's entry changed."""
    return HEADER | {name: HEADER[name] | fields}


def refusal(content: bytes, spec: tensors.Spec = SPEC) -> str:
    """The code that `content` is refused with."""
    with pytest.raises(RemoteProtocolError) as caught:
        raw.decode(content, spec)
    assert len(str(caught.value)) < 300, "the message does not repeat what the peer sent"
    return caught.value.code


def test_it_is_a_safetensors_file() -> None:
    loaded = safetensors.numpy.load(BLOB)
    assert tensors.digest(loaded) == tensors.digest(ADAPTER)
    assert tensors.digest(raw.decode(BLOB, SPEC)) == tensors.digest(ADAPTER)
    assert raw.decode(blob(HEADER), SPEC)["a"].tolist() == [[1.0, 2.0], [3.0, 4.0]], "blob() makes what raw accepts"


def test_what_lies_by_name_is_not_copied() -> None:
    found = raw.decode(BLOB, SPEC)
    assert isinstance(found, tensors.Packed) and np.shares_memory(found.array, np.frombuffer(BLOB, np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        found["a"] += 1


def test_a_file_of_any_other_order_dtype_or_address_is_read_as_well() -> None:
    turned = {"b": HEADER["b"] | {"data_offsets": [0, 4]}, "a": HEADER["a"] | {"data_offsets": [4, 20]}}
    odd = [json.dumps(HEADER).encode() + b" " * k for k in range(8)]
    for content in (blob(turned, DATA[16:] + DATA[:16]), *map(blob, odd)):
        found = raw.decode(content, SPEC)
        assert tensors.digest(found) == tensors.digest(ADAPTER) and all(x.flags.aligned for x in found.values())
    mixed = ADAPTER | {"c": np.array([1e300]), "empty": np.zeros((0, 3), np.float32)}
    assert tensors.digest(raw.decode(raw.encode(mixed), tensors.spec(mixed))) == tensors.digest(mixed)
    for none in ({}, {"empty": np.zeros((0, 3), np.float32)}):
        assert tensors.spec(raw.decode(raw.encode(none), tensors.spec(none))) == tensors.spec(none)


def named(name: str) -> dict[str, Any]:
    return {name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}


@pytest.mark.parametrize("shape", [[2**40, 2**40, 0], [2**62, 0], [2**70, 0], [0, 2**63]])
def test_an_empty_tensor_of_any_other_size_is_none(shape: list[int]) -> None:
    header = {"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}
    content = blob(header, b"")
    assert refusal(content, {"a": ("float32", tuple(shape))}) == "SAFETENSORS"


def test_what_the_library_cannot_read_is_refused_however_json_takes_it() -> None:
    """json takes other encodings, halves of characters and -0; who is sent such a file afterwards could not load it."""
    text = json.dumps(named("a")).encode()
    files = {
        "utf-16": blob(text.decode().encode("utf-16-le"), DATA[:4]),
        "utf-32": blob(text.decode().encode("utf-32-le"), DATA[:4]),
        "-0": blob(text.replace(b"[0, 4]", b"[-0, 4]"), DATA[:4]),
        "half": blob(named("\ud800"), DATA[:4]),
        "raw half": blob(text.replace(b'"a"', b'"\xed\xa0\x80"'), DATA[:4]),
    }
    for what, content in files.items():
        spec = {"\ud800" if "half" in what else "a": ("float32", (1,))}
        assert refusal(content, spec) == "SAFETENSORS", what


def test_no_more_is_held_than_the_tensors() -> None:
    wide = json.dumps(HEADER, separators=(",", ":")).encode() + b" " * (1 << 19)
    found = raw.decode(blob(wide), SPEC)
    assert not isinstance(found, tensors.Packed) and tensors.digest(found) == tensors.digest(ADAPTER)


def test_bytes_are_those_of_yesterday() -> None:
    """The SHA-256 of these bytes is a run's digest: they must never change for equal tensors."""
    text = json.dumps(HEADER, separators=(",", ":")).encode()
    padded = text + b" " * (-len(text) % 8)
    assert struct.pack("<Q", len(padded)) + padded + struct.pack("<5f", 1, 2, 3, 4, -0.0) == BLOB


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_every_bit_comes_back(dtype: type) -> None:
    info = np.finfo(dtype)
    sent = {"w": np.array([0.0, -0.0, info.tiny, info.smallest_subnormal, info.max, info.min, 1 / 3], dtype)}
    assert raw.decode(raw.encode(sent), tensors.spec(sent))["w"].tobytes() == sent["w"].tobytes()


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 7, b"\0" * 8, b"\0" * 100]
    + [struct.pack("<Q", n) + BLOB[8:] for n in (1, len(BLOB), len(BLOB) - 7, 2**63, 2**64 - 1, 2**20 + 1)]
    + [blob(b"x" * (2**20 + 1))],
    ids=lambda content: f"{len(content)} bytes, {content[:8].hex()}",
)
def test_lengths(content: bytes) -> None:
    assert refusal(content) == "SAFETENSORS"


@pytest.mark.parametrize(
    "header",
    [
        b"not JSON",
        b"[1, 2]",
        b'"text"',
        b"12",
        b"null",
        b"{}}",
        b"\xff\xfe\xfd",
        b'{"a": ',
        b"[" * 5000,
        b'{"a":' * 5000,
    ]
    + [b'{"a": 1' + b"0" * 5000 + b"}", b'{"a": {}, "a": {}}', b'{"__metadata__": {"a": "x", "a": "y"}}'],
    ids=lambda header: header[:16].decode("latin-1"),
)
def test_not_a_header(header: bytes) -> None:
    assert refusal(blob(header)) == "SAFETENSORS"


def test_duplicate_names_are_refused_though_the_library_takes_them() -> None:
    text = json.dumps(HEADER)
    duplicate = blob((text[:-1] + ", " + json.dumps({"a": HEADER["a"]})[1:]).encode())
    assert safetensors.numpy.load(duplicate).keys() == {"a", "b"}
    assert refusal(duplicate) == "SAFETENSORS"


@pytest.mark.parametrize("name", ["c", "", "../../etc/passwd", "a\0", "A", "\ud800", "x" * 100_000, "a\n", "\u202ea"])
def test_foreign_names(name: str) -> None:
    assert refusal(blob({**HEADER, name: {"dtype": "F32", "shape": [0], "data_offsets": [20, 20]}})) == "SCHEMA"
    assert refusal(blob({"a": HEADER["a"], name: HEADER["b"]})) == "SCHEMA"


def test_a_missing_name() -> None:
    assert refusal(blob({"a": HEADER["a"]}, DATA[:16])) == "SCHEMA"
    assert refusal(blob({}, b"")) == "SCHEMA"


@pytest.mark.parametrize("dtype", ["I8", "I32", "U64", "BOOL", "F8_E4M3", "BF16", "f32", "F128", "", None, 4, [], {}])
def test_other_dtypes(dtype: Any) -> None:
    assert refusal(blob(entry("a", dtype=dtype))) == "SAFETENSORS"


def test_a_known_dtype_of_another_schema() -> None:
    assert refusal(raw.encode(ADAPTER | {"a": ADAPTER["a"].astype(np.float64)})) == "SCHEMA"
    assert refusal(raw.encode(ADAPTER | {"a": ADAPTER["a"].astype(np.float16)})) == "SCHEMA"
    assert refusal(blob(entry("a", dtype="F16"))) == "SAFETENSORS", "half of the bytes would be nobody's"


@pytest.mark.parametrize("shape", [[4], [1, 2, 2], [2, 2, 1]])
def test_other_shapes(shape: list[int]) -> None:
    assert refusal(blob(entry("a", shape=shape))) == "SCHEMA"


@pytest.mark.parametrize("shape", [[0], [2**62, 0], [], [2, 3], [2**62, 2**62]])
def test_shapes_that_do_not_fit_the_bytes(shape: list[int]) -> None:
    assert refusal(blob(entry("a", shape=shape))) == "SAFETENSORS"


@pytest.mark.parametrize("shape", [[2, -2], [2, 2.0], [True, 2], ["2", 2], None, 4, {}, "22", [1] * 10_000, [[2], [2]]])
def test_what_is_no_shape(shape: Any) -> None:
    assert refusal(blob(entry("a", shape=shape))) == "SAFETENSORS"


def test_another_rank_of_lora() -> None:
    assert refusal(raw.encode({"a": np.zeros((4, 2), np.float32), "b": ADAPTER["b"]})) == "SCHEMA"


def test_a_transposed_matrix() -> None:
    wide = {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}
    assert refusal(raw.encode({"a": wide["a"].T}), tensors.spec(wide)) == "SCHEMA"


@pytest.mark.parametrize(
    "offsets",
    [[0, 20], [4, 20], [16, 16], [0, 15], [0, 17], [20, 16], [16, 24], [-4, 0], [16, 2**63], [16.0, 20], [16], [], None]
    + [[16, 20, 24], "ab", [True, 20]],
)
def test_offsets(offsets: Any) -> None:
    """Overlap, hole, end before begin, past the end, no offsets at all."""
    assert refusal(blob(entry("b", data_offsets=offsets))) == "SAFETENSORS"


@pytest.mark.parametrize("data", [DATA[:-1], DATA + b"\0", b"", DATA * 2])
def test_short_and_trailing_data(data: bytes) -> None:
    assert refusal(blob(HEADER, data)) == "SAFETENSORS"


@pytest.mark.parametrize("fields", [{"more": 1}, {"dtype": "F32"}, {}, None, [], "F32"])
def test_other_fields_in_an_entry(fields: Any) -> None:
    changed = {**HEADER["a"], **fields} if fields == {"more": 1} else fields
    assert refusal(blob(HEADER | {"a": changed})) == "SAFETENSORS"


@pytest.mark.parametrize("metadata", [1, [], {"a": 1}, {"a": {}}, "text", {}, {"format": "pt"}, {"a": "x" * 2**20}])
def test_metadata_of_which_an_adapter_has_none(metadata: Any) -> None:
    assert refusal(blob({"__metadata__": metadata, **HEADER})) == "SAFETENSORS"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_not_finite(value: float) -> None:
    damaged = raw.encode(ADAPTER | {"a": np.array([[1, 2], [3, value]], np.float32)})
    assert refusal(damaged) == "NONFINITE"


def test_zeros_and_denormals_are_values() -> None:
    for value in (0.0, -0.0, 1e-45):
        sent = {"a": np.full((2, 2), value, np.float32), "b": ADAPTER["b"]}
        assert raw.decode(raw.encode(sent), SPEC)["a"].tobytes() == sent["a"].tobytes()


def test_200k_tensors_are_refused_before_they_are_parsed() -> None:
    header = {f"t{k}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for k in range(200_000)}
    content = blob(header, b"")
    tracemalloc.start()
    try:
        assert refusal(content) == "SAFETENSORS"
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20, "nothing was made of the header"


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", PICKLE)
    return file.getvalue()


@pytest.mark.parametrize("content", [PICKLE, _zip(), PICKLE + BLOB, _zip() + BLOB, BLOB + _zip()])
def test_other_formats(content: bytes) -> None:
    """Pickle, zip as torch.save makes it, and files that are two formats at once."""
    assert refusal(content) == "SAFETENSORS"


@given(st.binary(max_size=300))
def test_any_bytes(content: bytes) -> None:
    refusal(content)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["F32", "a", "b"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", "__metadata__", "dtype", "shape", "data_offsets"]), inner)
    ),
    max_leaves=12,
)


@given(_JSON, st.sampled_from([DATA, b"", DATA[:7]]))
def test_any_json(header: Any, data: bytes) -> None:
    refusal(blob(header, data))


@given(st.sampled_from(["a", "b"]), st.sampled_from(["dtype", "shape", "data_offsets"]), _JSON)
def test_any_entry(name: str, field: str, value: Any) -> None:
    header = entry(name, **{field: value})
    if header != HEADER:
        refusal(blob(header))


@given(st.integers(0, len(BLOB) - 1), st.integers(0, 255))
def test_any_byte_changed(position: int, value: int) -> None:
    damaged = bytearray(BLOB)
    damaged[position] = value
    try:
        decoded = raw.decode(bytes(damaged), SPEC)
    except RemoteProtocolError:
        return
    assert tensors.spec(decoded) == SPEC
    assert all(np.isfinite(value).all() for value in decoded.values())
