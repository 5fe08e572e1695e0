"""Which precision a device gets."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from fedmq.errors import ConfigError
from fedmq.learning import precision as module
from fedmq.learning.precision import faster_dtype, require_precision
from fedmq.recipe import TrainingRecipe


def test_the_probe_says_one_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    for seconds in (0.0, 0.01):
        assert faster_dtype("cpu", 64, seconds) in (torch.float32, torch.bfloat16)
    monkeypatch.setattr(module, "_WORTH", 0.0)
    assert faster_dtype("cpu", 64, 0.0) is torch.bfloat16, "worth it at any speed"
    monkeypatch.setattr(module, "_WORTH", float("inf"))
    assert faster_dtype("cpu", 64, 0.0) is torch.float32, "not worth it at any"
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(("fp32_s", "bf16_s", "expected"), [(2.6, 2.0, torch.bfloat16), (2.4, 2.0, torch.float32)])
def test_the_probe_counts_processor_time_of_one_thread(
    monkeypatch: pytest.MonkeyPatch, fp32_s: float, bf16_s: float, expected: torch.dtype
) -> None:
    """Wall time would let other processes decide."""
    steps, threads = itertools.cycle([0.0, fp32_s, 0.0, bf16_s]), []
    elapsed = itertools.accumulate(itertools.chain([0.0, 0.0, 0.0], steps))  # at the start, and twice to set up

    def thread_time() -> float:
        threads.append(torch.get_num_threads())
        return next(elapsed)

    monkeypatch.setattr(module.time, "thread_time", thread_time)
    torch.set_num_threads(2)
    try:
        assert faster_dtype("cpu", 64, 0.0) is expected
    finally:
        torch.set_num_threads(1)
    assert len(threads) == 1 + 2 + 2 * 4 + 1 and set(threads) == {1}


@pytest.mark.parametrize(
    ("precision", "fp16", "device", "has_bf16", "expected"),
    [
        ("auto", False, "cpu", False, "auto"),
        ("fp32", False, "cpu", False, "fp32"),
        ("bf16", False, "cpu", False, "bf16"),
        ("auto", False, "cuda:0", True, "auto"),
        ("bf16", False, "cuda:0", True, "bf16"),
        ("fp16", False, "cuda:0", True, "fp16"),
        ("fp16", True, "cuda:1", True, "fp16"),
        ("auto", True, "cuda:0", True, "bf16"),
        ("auto", True, "cuda:0", False, "fp16"),
    ],
)
def test_what_a_recipe_means(
    precision: str,
    fp16: bool,
    device: str,
    has_bf16: bool,
    expected: str,
    recipe: TrainingRecipe,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module.torch.cuda, "is_bf16_supported", lambda **_: has_bf16)
    assert require_precision(replace(recipe, precision=precision, fp16=fp16), device) == expected


@pytest.mark.parametrize(
    ("precision", "fp16", "device", "words"),
    [
        ("fp16", False, "cpu", r"needs a CUDA device, this worker trains on 'cpu': set training\.precision"),
        ("auto", True, "cpu", "needs a CUDA device"),
        ("fp16", False, "mps", "needs a CUDA device, this worker trains on 'mps'"),
        ("fp32", True, "cuda:0", "training.fp16 is true and training.precision is 'fp32': give one of them"),
        ("bf16", True, "cuda:0", "give one of them"),
        ("bf16", False, "cuda:0", '"bf16" is not known to \'cuda:0\': set it to "fp16" or "fp32"'),
    ],
)
def test_what_a_device_has_not(
    precision: str,
    fp16: bool,
    device: str,
    words: str,
    recipe: TrainingRecipe,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module.torch.cuda, "is_bf16_supported", lambda **_: False)
    with pytest.raises(ConfigError, match=words):
        require_precision(replace(recipe, precision=precision, fp16=fp16), device)
