"""The evaluation loss is a plain sum over targets."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fedmq.errors import DataError, LocalProtocolError
from fedmq.learning import evaluate as module
from fedmq.learning.evaluate import EvaluationResult, evaluate
from fedmq.learning.models import LanguageModel


def plain_sum(lm: LanguageModel, texts: list[np.ndarray]) -> tuple[float, int]:
    """One text at a time, one target at a time, in float64."""
    total, count = 0.0, 0
    with torch.no_grad():
        for text in texts:
            logits = lm.model.eval()(input_ids=torch.tensor(text[None].astype(np.int64))).logits[0].double()
            for position in range(len(text) - 1):
                total -= float(torch.log_softmax(logits[position], -1)[int(text[position + 1])])
                count += 1
    return total, count


def test_equals_a_plain_sum(trained: LanguageModel, texts: list[np.ndarray]) -> None:
    total, count = plain_sum(trained, texts)
    result = evaluate(trained, texts, batch_size=4)
    assert result.num_tokens == count == sum(len(text) - 1 for text in texts)
    assert result.num_examples == len(texts)
    assert result.loss_sum == pytest.approx(total, rel=1e-6)
    assert result.eval_loss == pytest.approx(total / count, rel=1e-6)
    assert result.perplexity == pytest.approx(math.exp(total / count), rel=1e-5)


def test_does_not_depend_on_batches_or_order_and_repeats_exactly(
    trained: LanguageModel, texts: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = evaluate(trained, texts, batch_size=4)
    assert evaluate(trained, texts, batch_size=4) == reference
    for batch_size in (1, 7, 100):
        assert evaluate(trained, texts[::-1], batch_size=batch_size).eval_loss == pytest.approx(
            reference.eval_loss, abs=1e-5
        )
    # One text at a time, whatever batch_size says: the engines count differently how much they take.
    monkeypatch.setattr(module, "_MAX_LOGITS" if trained.packed is None else "_PACKED_TOKENS", 1)
    steps: list[tuple[int, int]] = []
    small = evaluate(trained, texts, batch_size=100, on_step=lambda step, total: steps.append((step, total)))
    assert small.eval_loss == pytest.approx(reference.eval_loss, abs=1e-5)
    assert steps == [(i + 1, len(texts)) for i in range(len(texts))]


def test_no_dropout_and_no_trace(trained: LanguageModel, texts: list[np.ndarray]) -> None:
    reference = evaluate(trained, texts, batch_size=4)
    trained.model.train()
    before = torch.get_rng_state()
    assert evaluate(trained, texts, batch_size=4) == reference
    assert torch.equal(torch.get_rng_state(), before)
    assert trained.model.training
    trained.model.eval()
    assert all(p.grad is None for p in trained.model.parameters())


def test_a_text_of_one_token_is_an_example_without_target(lm: LanguageModel, texts: list[np.ndarray]) -> None:
    with_empty = evaluate(lm, [*texts, np.array([0])], batch_size=4)
    without = evaluate(lm, texts, batch_size=4)
    assert with_empty == without._replace(num_examples=without.num_examples + 1)
    for nothing in ([], [np.array([0])]):
        with pytest.raises(DataError, match="nothing to evaluate"):
            evaluate(lm, nothing, batch_size=4)


def test_perplexity_stays_finite_as_json_demands() -> None:
    assert 1e304 < EvaluationResult(8000.0, 10, 1).perplexity < math.inf


@pytest.mark.parametrize("engine", ["hf"], indirect=True)
def test_engine_hf_scores_its_models_adapter_only(lm: LanguageModel, texts: list[np.ndarray]) -> None:
    with pytest.raises(LocalProtocolError, match="scores the adapter of its model only"):
        evaluate(lm, texts, batch_size=4, adapter=lm.initial_adapter())
