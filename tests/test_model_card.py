"""What a card claims of runs of every kind: above all that nobody is told of a privacy that was not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from made_runs import make_run

from fedmq.inspection import inspect_run
from fedmq.model_card import model_card

SIMULATED = "its clients were simulated: nothing was kept from anybody"


def card(folder: Path, *, client: str | None = None, file: str | None = "tweets.csv", **settings: Any) -> Any:
    found = inspect_run(make_run(folder / "run", own_texts=client is not None, **settings), spans=False)
    found["provenance"]["data_file"] = file
    return huggingface_hub.ModelCard(model_card(found, 3, merged=False, local_base=None, client=client))


def test_only_where_clients_had_their_texts_it_says_that_they_kept_them(tmp_path: Path) -> None:
    real = card(tmp_path / "real", file=None).text
    assert (
        "each client trained on texts of its own" in real and "Texts stayed with the workers of their clients" in real
    )
    assert "simulated" not in real and "dealt" not in real
    simulated = card(tmp_path / "simulated").text
    assert SIMULATED in simulated and "| dealt to clients | iid |" in simulated and "stayed" not in simulated


@pytest.mark.parametrize(("kind", "how"), [("central", "on all texts at one place"), ("local", "each client alone")])
def test_a_baseline_is_no_federation(kind: str, how: str, tmp_path: Path) -> None:
    baseline = {"kind": kind, "of": "ab", "run_clients": 3, "run_clients_per_round": 2}
    found = card(tmp_path, baseline=baseline)
    assert f"without a federation, {how}" in found.text and SIMULATED in found.text
    assert "federated-learning" not in found.data.tags and "federated learning" not in found.text


def test_the_bundled_base_is_on_no_hub(tmp_path: Path) -> None:
    found = card(tmp_path / "bundled", model={"model_name": "fedmq-tiny"})
    assert found.data.base_model is None and not [tag for tag in found.data.tags if tag.startswith("base_model:")]
    assert "fedmq-tiny is CC0-1.0" in found.text
    found = card(tmp_path / "hub", model={"model_name": "gpt2"})
    assert found.data.base_model == "gpt2" and "base_model:adapter:gpt2" in found.data.tags


def test_a_clients_own_model(tmp_path: Path) -> None:
    text = card(tmp_path, client="client_1", federated={"lora_aggregation": "fedsa"}).text
    scores = inspect_run(tmp_path / "run", spans=False)["scores"]
    own, everybody = scores["3"]["clients"]["client_1"]["eval_loss"], scores["3"]["eval_loss"]
    assert f"| after round 3 | {own:.4f} |" in text and f"{everybody:.4f}" not in text
    assert "It is client_1's own: each client has a model for itself." in text
    assert "| client_1 | 41 texts, 900 tokens |" in text and "On what client_1 held out of its texts" in text
    assert "adapter of the run" not in text, "of all clients"


def test_methods_have_their_options(tmp_path: Path) -> None:
    federated = {"mode": "async", "local_method": "fedprox", "local_method_options": {"mu": 0.25}}
    text = card(tmp_path, federated=federated).text
    assert "local method fedprox (mu 0.25)" in text and "2 of 3 clients at a time" in text
