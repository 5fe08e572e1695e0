"""Frozen weights: the base's own in float32, one file for all processes in bfloat16, a copy where that cannot be."""

from __future__ import annotations

import logging
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import tiny
import torch

from fedmq.learning.bases import digest, load_base, release_pages
from fedmq.learning.evaluate import evaluate
from fedmq.learning.fast.frozen import Frozen, cache_folder, frozen_weights
from fedmq.learning.models import LanguageModel
from fedmq.learning.tokenizer import Tokenizer
from fedmq.recipe import LoRASpec

TEXTS = tiny.random_texts(8)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache" / "fedmq"
    return cache_folder()


def load(tokenizer: Tokenizer, kind: str = "gpt2", precision: str = "bf16") -> LanguageModel:
    return tiny.load(tiny.base(kind), tokenizer, tiny.spec(kind), "fast", precision)


def frozen(lm: LanguageModel) -> Frozen:
    assert lm.packed is not None
    return lm.packed.frozen


def mapped_file(value: torch.Tensor) -> str:
    """The file behind a tensor's memory, as the kernel has it; "" for memory of the process's own."""
    address = value.data_ptr()
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        span, _, _, _, _, *name = line.split(maxsplit=5)
        start, end = (int(number, 16) for number in span.split("-"))
        if start <= address < end:
            return name[0] if name and name[0].startswith("/") else ""
    raise AssertionError(f"no mapping holds {address:x}")


def test_the_cache_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "fedmq"


def test_float32_weights_are_the_bases_own(tokenizer: Tokenizer, cache: Path) -> None:
    lm = load(tokenizer, precision="fp32")
    own = {value.data_ptr() for value in lm.model.parameters()}
    linear, head = frozen(lm)
    assert len(linear) == 2 * 4
    assert {value.data_ptr() for pair in linear.values() for value in pair if value is not None} <= own
    assert head.data_ptr() in own
    assert not cache.exists()


@pytest.mark.parametrize("kind", ["gpt2", "gpt2, own head, gelu", "llama", "qwen2"])
def test_bfloat16_weights_are_the_bases_rounded(kind: str, tokenizer: Tokenizer, cache: Path) -> None:
    exact, rounded = frozen(load(tokenizer, kind, "fp32")), frozen(load(tokenizer, kind))
    assert exact.linear.keys() == rounded.linear.keys()
    for path, pair in exact.linear.items():
        for wanted, value in zip(pair, rounded.linear[path], strict=True):
            assert (wanted is None) == (value is None)
            if wanted is not None and value is not None:
                assert torch.equal(value, wanted.bfloat16())
    # All logits of a row but for a constant: the softmax is the same, and the digits hold what differs.
    centred = exact.head - exact.head.mean(1, keepdim=True)
    torch.testing.assert_close(rounded.head.float(), centred, atol=1e-3, rtol=2**-8)


def test_all_models_of_a_host_map_one_file(tokenizer: Tokenizer, cache: Path) -> None:
    first = load(tokenizer)
    (file,) = cache.glob("*.safetensors")
    assert re.fullmatch(rf"{first.base_digest}\.bfloat16-\w+\.safetensors", file.name)
    written = file.stat()
    second = load(tokenizer)
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    for lm in (first, second):
        linear, head = frozen(lm)
        for value in (head, *(part for pair in linear.values() for part in pair if part is not None)):
            assert mapped_file(value) == str(file)
    assert evaluate(second, TEXTS, batch_size=4) == evaluate(first, TEXTS, batch_size=4)
    load(tokenizer, "llama")
    assert len(list(cache.glob("*.safetensors"))) == 2, "another base, another file, and nothing half written"


@pytest.mark.parametrize("damage", ["cut short", "no safetensors", "empty"])
def test_a_damaged_file_is_made_again(
    damage: str, tokenizer: Tokenizer, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = evaluate(load(tokenizer), TEXTS, batch_size=4)
    (file,) = cache.glob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes({"cut short": whole[:-100], "no safetensors": b"x" * 1000, "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        lm = load(tokenizer)
    (record,) = caplog.records
    assert f"{file} is damaged (" in record.getMessage() and "made again" in record.getMessage()
    assert file.read_bytes() == whole and [path.name for path in cache.glob("*.safetensors")] == [file.name]
    assert mapped_file(frozen(lm).head) == str(file)
    assert evaluate(lm, TEXTS, batch_size=4) == expected


def test_a_file_that_cannot_be_read(tokenizer: Tokenizer, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = evaluate(load(tokenizer), TEXTS, batch_size=4)
    (file,) = cache.glob("*.safetensors")
    file.unlink()
    file.mkdir()
    with caplog.at_level(logging.WARNING):
        lm = load(tokenizer)
    (record,) = caplog.records
    assert f"{file} cannot be used (" in record.getMessage() and "its own copy of the weights" in record.getMessage()
    assert mapped_file(frozen(lm).head) == ""
    assert evaluate(lm, TEXTS, batch_size=4) == expected


def test_a_cache_that_cannot_be_written(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = evaluate(load(tokenizer), TEXTS, batch_size=4)
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        lm = load(tokenizer)
    assert "this process keeps its own copy" in caplog.records[0].getMessage()
    assert evaluate(lm, TEXTS, batch_size=4) == expected
    assert (tmp_path / "file").read_text() == "not a folder"
    assert np.isfinite(tiny.fast_gradient(lm, TEXTS)[0])


def test_workers_that_start_together_map_one_file(tokenizer: Tokenizer, cache: Path) -> None:
    base = load(tokenizer, precision="fp32").model.get_base_model()
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: frozen_weights(base, torch.bfloat16, "d" * 64), range(4)))
    (file,) = cache.glob("*.safetensors")
    assert {mapped_file(one.head) for one in made} == {str(file)}, "none has an older file that was replaced"


def test_pages_of_others_stay_as_they_are(tokenizer: Tokenizer, gpt2_folder: Path, lora: LoRASpec) -> None:
    """Weights that somebody else has mapped and changed do not turn back into those of their file."""
    others = safetensors.torch.load_file(gpt2_folder / "model.safetensors")
    name = next(iter(others))
    changed = others[name].add_(1.0).clone()
    LanguageModel.load(str(gpt2_folder), lora, max_length=32, seed=1, device="cpu", engine="fast", precision="bf16")
    assert torch.equal(others[name], changed)


def test_pages_of_the_base_are_released_and_come_back(gpt2_folder: Path) -> None:
    base = load_base(str(gpt2_folder), gpt2_folder)
    before = digest(base)
    assert resident_bytes(base) > 0, "the digest reads all weights"
    release_pages(base)
    assert resident_bytes(base) == 0
    assert digest(base) == before


def resident_bytes(base: torch.nn.Module) -> int:
    """What this process has in memory of the mapping that holds the base's first weight."""
    address, inside = next(base.parameters()).data_ptr(), False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= address < int(found[2], 16)
        elif inside and line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no mapping holds {address:x}")
