"""Out of memory: smaller parts, the same result, and an error that is known for what it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

import fedmq
from fedmq.learning.fast.model import PackedModel
from fedmq.learning.outcome import out_of_memory
from fedmq.learning.tokenizer import Tokenizer
from fedmq.learning.train import Share, train_together
from fedmq.recipe import TrainingRecipe

of_linux = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is not enforced, or there is no /proc")
#: MiB above what the process has before a step: a batch as a whole needs about 130 of engine "fast" and 48 of "hf", a
#: half 70 and 22, a quarter 30 and 11.
LIMITS = {"fast": [None, 100, 50, 8], "hf": [None, 35, 16, 4]}
SAID = {
    "fast": [
        "out of memory: from step 1 on, batches go through in 2 parts (same effective batch)",
        "out of memory: from step 1 on, batches go through in 4 parts (same effective batch)",
    ],
    "hf": [
        "out of memory: beginning anew with batches of 16 texts",
        "out of memory: beginning anew with batches of 8 texts",
    ],
}


@pytest.fixture(scope="module")
def trials(gpt2_folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What a process with a real limit did, by engine."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(Path(fedmq.__file__).parent.parent)])
    # Large blocks come from the kernel and go back to it, so that the limit meets each of them.
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, str(here / "limited_memory.py"), str(gpt2_folder), json.dumps(LIMITS)],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
        env=environment,
    )
    found: dict[str, list[dict[str, Any]]] = json.loads(done.stdout)
    return found


@of_linux
@pytest.mark.parametrize("engine", LIMITS)
def test_smaller_parts_give_the_same_result(engine: str, trials: dict[str, list[dict[str, Any]]]) -> None:
    whole, halves, quarters, _ = trials[engine]
    assert [trial["log"] for trial in (whole, halves, quarters)] == [[], SAID[engine][:1], SAID[engine]]
    for trial in (whole, halves, quarters):
        assert trial["error"] is None and trial["num_steps"] == whole["num_steps"]
        assert trial["loss"] == pytest.approx(whole["loss"], rel=1e-6)
        assert trial["distance"] < 1e-4 < 1e-2 < trial["moved"]


@of_linux
@pytest.mark.parametrize("engine", LIMITS)
def test_too_little_even_for_a_quarter(engine: str, trials: dict[str, list[dict[str, Any]]]) -> None:
    failed = trials[engine][-1]
    assert failed["error"] is not None and failed["known"] is True
    assert failed["log"] == SAID[engine], "twice, then no more"
    assert failed["moved"] == 0, "the adapter is where it was"


def fit(monkeypatch: pytest.MonkeyPatch, tokens: int, error: BaseException) -> list[int]:
    """From here on no pass is possible over more than `tokens` tokens; the sizes of those that were."""
    sizes, hidden = [], PackedModel.hidden

    def limited(self: PackedModel, packed: Any, *args: Any, **options: Any) -> Any:
        if len(packed.ids) > tokens:
            raise error
        sizes.append(len(packed.ids))
        return hidden(self, packed, *args, **options)

    monkeypatch.setattr(PackedModel, "hidden", limited)
    return sizes


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")], ids=["host", "device"])
def test_a_group_is_cut_across_its_clients(
    error: BaseException, tokenizer: Tokenizer, recipe: TrainingRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = tiny.load(tiny.base("gpt2"), tokenizer, tiny.spec("gpt2"), "fast")
    shares = [Share([np.full(10, 5 + k)] * count, k) for k, count in enumerate((4, 3, 9))]
    recipe = replace(recipe, num_epochs=1, gradient_accumulation_steps=2, learning_rate=2e-3)
    whole = train_together(lm, shares, recipe)
    sizes = fit(monkeypatch, 30, error)  # the first batch of all has 11 texts of 10
    cut = train_together(lm, shares, recipe)
    # 11 texts in quarters, then client 2 alone: its second batch, and in its second step what is left.
    assert sizes == [30, 30, 30, 20, 10, 10, 10, 10, 10]
    for one, other in zip(whole, cut, strict=True):
        assert isinstance(one, tuple) and isinstance(other, tuple)
        assert other[0].train_loss == pytest.approx(one[0].train_loss, rel=1e-6)
        assert tiny.distance(tiny.flat(other[1]), tiny.flat(one[1])) < 1e-4


def test_a_step_that_fails_half_way_is_begun_anew(
    tokenizer: Tokenizer, recipe: TrainingRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = tiny.load(tiny.base("gpt2"), tokenizer, tiny.spec("gpt2"), "fast")
    texts = [np.full(size, 5 + size) for size in (3, 4, 5, 6, 20, 21, 22, 23)]
    recipe = replace(recipe, num_epochs=1, gradient_accumulation_steps=2, learning_rate=2e-3, shuffle_dataset=False)
    ((whole, adapter),) = train_together(lm, [Share(texts, 1)], recipe)  # type: ignore[misc]
    sizes = fit(monkeypatch, 60, MemoryError())
    ((cut, other),) = train_together(lm, [Share(texts, 1)], recipe)  # type: ignore[misc]
    assert sizes == [18, 7, 11, 41, 45], "the first batch again, now in halves"
    assert cut.log_history[0]["loss"] == pytest.approx(whole.log_history[0]["loss"], rel=1e-6)
    assert cut.log_history[0]["grad_norm"] == pytest.approx(whole.log_history[0]["grad_norm"], rel=1e-4)
    assert tiny.distance(tiny.flat(other), tiny.flat(adapter)) < 1e-4


def test_other_errors_are_not_tried_again(
    tokenizer: Tokenizer, recipe: TrainingRecipe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lm = tiny.load(tiny.base("gpt2"), tokenizer, tiny.spec("gpt2"), "fast")
    fit(monkeypatch, 0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        train_together(lm, [Share(tiny.random_texts(4), 1)], recipe)
    assert not caplog.records


def test_what_says_that_memory_could_not_be_had() -> None:
    assert out_of_memory(MemoryError()) and out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    for error in (RuntimeError("shape '[2, 3]' is invalid"), ValueError("DefaultCPUAllocator"), KeyError("memory")):
        assert not out_of_memory(error)
