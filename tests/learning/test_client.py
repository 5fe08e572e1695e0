"""FederatedClient: the parts in one hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedmq.errors import DataError
from fedmq.learning.adapter_folder import read_adapter
from fedmq.learning.client import FederatedClient
from fedmq.learning.models import LanguageModel
from fedmq.recipe import TrainingRecipe
from fedmq.tensors import digest


def test_two_clients_share_one_model(
    lm: LanguageModel, texts: list[np.ndarray], recipe: TrainingRecipe, tmp_path: Path
) -> None:
    start = lm.initial_adapter()
    first = FederatedClient("client_0", lm, texts[:8], val=texts[8:10], test=texts[10:], log_dir=tmp_path)
    second = FederatedClient("client_1", lm, texts[8:], test=texts[:8])
    recipe = replace(recipe, save_steps=2, eval_steps=2)
    digests = []
    for client in (first, second, first):
        client.set_weights(start)
        client.train(recipe, seed=3, round=1)
        digests.append(digest(client.get_weights()))
    assert digests[0] == digests[2] != digests[1]
    assert [record["round"] for record in first.history] == [1, 1]
    record = second.history[0]
    assert (record["client_id"], record["train_samples"], record["num_steps"]) == ("client_1", 12, 6)
    assert record["num_tokens"] == 2 * sum(len(text) - 1 for text in texts[8:])
    assert json.loads(json.dumps(record)) == record

    lines = [json.loads(line) for line in (tmp_path / "client_0" / "training.jsonl").read_text().splitlines()]
    assert {line["round"] for line in lines} == {1}
    assert sum("loss" in line for line in lines) == 2 * 4
    assert sum("eval_loss" in line for line in lines) == 2 * 2
    assert sorted(path.name for path in (tmp_path / "client_0" / "round_1").iterdir()) == ["step_2", "step_4"]
    assert [path.name for path in tmp_path.iterdir()] == ["client_0"]

    assert first.evaluate().num_examples == 10
    assert first.evaluate("val", batch_size=1).num_examples == 2
    assert len(first.generate(["hello", "my"], max_new_tokens=3)) == 2
    first.save_checkpoint(tmp_path / "saved")
    assert digest(read_adapter(tmp_path / "saved")[0]) == digest(first.get_weights())


def test_a_log_that_cannot_be_written_costs_no_training(
    lm: LanguageModel, texts: list[np.ndarray], recipe: TrainingRecipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "client_0").mkdir()
    (tmp_path / "client_0" / "training.jsonl").symlink_to("/dev/full")
    client = FederatedClient("client_0", lm, texts[:8], log_dir=tmp_path)
    client.set_weights(lm.initial_adapter())
    client.train(recipe, seed=3, round=1)
    assert [record["round"] for record in client.history] == [1]
    assert f"{tmp_path / 'client_0'} cannot be written (No space left on device)" in caplog.text


def test_the_same_subset_in_each_round(
    lm: LanguageModel, texts: list[np.ndarray], recipe: TrainingRecipe, first_tokens: list[int]
) -> None:
    recipe = replace(recipe, num_epochs=1, shuffle_dataset=False, max_samples_per_client=5)
    marked = [np.array([i + 1, 5, 6, 0]) for i in range(20)]

    def subset(client: FederatedClient, round: int) -> list[int]:
        first_tokens.clear()
        client.train(recipe, seed=100 + round, round=round)
        return list(first_tokens)

    client = FederatedClient("client_0", lm, marked, seed=42)
    first = subset(client, 1)
    assert len(first) == 5 and subset(client, 2) == first
    assert subset(FederatedClient("client_1", lm, marked, seed=42), 1) != first
    assert subset(FederatedClient("client_0", lm, marked, seed=43), 1) != first


def test_a_split_that_is_not_there(lm: LanguageModel, texts: list[np.ndarray]) -> None:
    client = FederatedClient("shop", lm, texts)
    with pytest.raises(DataError, match="'shop' has no split 'test', only train"):
        client.evaluate()
