"""Pretraining the bundled base: the same corpus gives the same bytes, and the folder is a plain one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import fedmq
from fedmq.errors import DataError
from fedmq.learning import pretrain

TINY = pretrain.Pretraining(
    vocab_size=300, n_layer=1, n_embd=32, n_head=2, n_positions=16, steps=20, batch_size=4, save_every=10
)
BUNDLED = Path(fedmq.__file__).parent / "assets" / "fedmq-tiny"


@pytest.fixture(autouse=True)
def torch_settings() -> Iterator[None]:
    """Pretraining sets torch up for itself; other tests get back what they had."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = fill


@pytest.fixture
def corpus_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    documents = [f"The {n} birds sing in the {n % 7} trees.\nIt is day {n}." for n in range(200)]
    (folder / "birds.txt").write_text("\n\n".join(documents), encoding="utf-8")
    (folder / "sources.json").write_text(
        json.dumps({"birds": {"title": "birds", "package": "birds 1", "licence": "CC0"}}), encoding="utf-8"
    )
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_the_same_corpus_gives_the_same_bytes(corpus_dir: Path, tmp_path: Path) -> None:
    pretrain.pretrain(corpus_dir, tmp_path / "one", TINY)
    pretrain.pretrain(corpus_dir, tmp_path / "two", TINY)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "one", "two"]

    pretrain.pretrain(corpus_dir, tmp_path / "two", dataclasses.replace(TINY, seed=43))
    assert digests(tmp_path / "one")["model.safetensors"] != digests(tmp_path / "two")["model.safetensors"]


def test_the_folder_is_a_plain_transformers_folder(corpus_dir: Path, tmp_path: Path) -> None:
    pretrain.pretrain(corpus_dir, tmp_path / "out", TINY)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", local_files_only=True, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    assert tokenizer.eos_token_id == model.config.eos_token_id == tokenizer.convert_tokens_to_ids(pretrain.END)
    text = "É 😡 &amp; birds\n"
    assert tokenizer.decode(tokenizer(text).input_ids) == text

    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "| birds | birds | birds 1 | CC0 |" in card
    assert hashlib.sha256((corpus_dir / "birds.txt").read_bytes()).hexdigest() in card
    assert "20 of 20 steps, 1,280 tokens seen" in card


def test_training_lowers_the_held_out_loss(
    corpus_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain.pretrain(corpus_dir, tmp_path / "out", dataclasses.replace(TINY, steps=60, save_every=30))
    saved = [line for line in capsys.readouterr().out.splitlines() if line.startswith("saved")]
    early, late = (float(line.split("'birds': ")[1].rstrip("}")) for line in saved)
    assert late < early < math.log(TINY.vocab_size)


def test_every_fiftieth_document_is_held_out(corpus_dir: Path) -> None:
    corpus = pretrain.read_corpus(corpus_dir)
    assert [document.split()[1] for document in corpus.held_out["birds"]] == ["49", "99", "149", "199"]
    assert len(corpus.train["birds"]) == 196
    assert not set(corpus.train["birds"]) & set(corpus.held_out["birds"])


def test_documents_are_packed_with_an_end_each() -> None:
    tokenizer = pretrain.train_tokenizer(["aa bb"], 300)
    blocks = pretrain.pack(tokenizer, ["a", "b", "a"], 2)
    end = tokenizer.token_to_id(pretrain.END)
    a, b = (tokenizer.encode(letter).ids[0] for letter in "ab")
    assert blocks.tolist() == [[a, end], [b, end], [a, end]]
    assert pretrain.pack(tokenizer, [], 2).shape == (0, 2)


def test_the_learning_rate_warms_up_and_ends_near_zero() -> None:
    options = dataclasses.replace(TINY, steps=100, learning_rate=1.0)
    rates = [pretrain.learning_rate(step, options) for step in range(100)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] == pytest.approx(1 / 96)


def test_a_folder_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \*\.txt file"):
        pretrain.read_corpus(tmp_path)
    (tmp_path / "short.txt").write_text("Hi.", encoding="utf-8")
    with pytest.raises(DataError, match="too little text"):
        pretrain.pretrain(tmp_path, tmp_path / "out", TINY)
    assert not (tmp_path / "out").exists()


def test_the_bundled_base_loads_and_is_small() -> None:
    model = AutoModelForCausalLM.from_pretrained(BUNDLED, local_files_only=True, dtype=torch.float32)
    assert model.num_parameters() == 3_505_152
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) < 7_300_000
    card = (BUNDLED / "README.md").read_text(encoding="utf-8")
    assert "held-out perplexity" in card and "licence" in card


def test_the_bundled_base_has_learnt_english() -> None:
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(BUNDLED, local_files_only=True, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED, local_files_only=True)

    def loss(text: str) -> float:
        ids = torch.tensor([tokenizer(text).input_ids])
        with torch.inference_mode():
            return float(model(input_ids=ids, labels=ids).loss)

    sentence = "It was a long time before he could be persuaded to go with them to the house."
    shuffled = "house time to them before go could the was a be with persuaded to he long It."
    assert loss(sentence) < loss(shuffled) - 1.0
