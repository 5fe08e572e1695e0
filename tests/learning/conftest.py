"""Tiny models on disk, made once: a GPT-2 and a Llama of two layers with one byte-level tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers

from fedmq.learning.batching import collate
from fedmq.learning.fast.packed import Packed, pack
from fedmq.learning.models import LanguageModel
from fedmq.learning.tokenizer import load_tokenizer
from fedmq.recipe import LocalMethodSpec, LoRASpec, TrainingRecipe

END = "<|endoftext|>"
SENTENCES = [
    "@AcmeSupport my order has not arrived yet, can you help me please?",
    "@alice we are sorry to hear that. Please send us your order number.",
    "The app crashes every time I open my account page \U0001f621",
    "Thanks for the quick reply, the update fixed it!",
    "My flight was cancelled & nobody at the desk could tell me why.",
    "We have sent you a direct message with the next steps.",
    "How long does a refund take? It has been two weeks now.",
    "Please restart your phone and try again, that should do it.",
    "Worst service ever, I want to talk to a human.",
    "Your parcel is on its way and will arrive on Monday.",
]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _save(folder: Path, model: transformers.PreTrainedModel) -> Path:
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        SENTENCES,
        tokenizers.trainers.BpeTrainer(
            vocab_size=400, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
        ),
    )
    model.save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END, bos_token=END).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=400, n_positions=64, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return _save(tmp_path_factory.mktemp("models") / "gpt2", transformers.GPT2LMHeadModel(config))


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=400,
        max_position_embeddings=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        bos_token_id=0,
        eos_token_id=0,
    )
    return _save(tmp_path_factory.mktemp("models") / "llama", transformers.LlamaForCausalLM(config))


@pytest.fixture(scope="session")
def lora() -> LoRASpec:
    return LoRASpec(
        r=4,
        lora_alpha=8,
        target_modules=("c_attn", "c_proj"),
        lora_dropout=0.1,
        layers_to_transform=None,
        bias="none",
        task_type="CAUSAL_LM",
        core=False,
    )


@pytest.fixture(scope="session", params=["hf", "fast"])
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine in turn; a test of one alone says `parametrize("engine", ["hf"], indirect=True)`."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def shared_lm(engine: str, gpt2_folder: Path, lora: LoRASpec) -> LanguageModel:
    return LanguageModel.load(
        str(gpt2_folder), lora, max_length=32, seed=1, device="cpu", engine=engine, precision="fp32"
    )


@pytest.fixture
def lm(shared_lm: LanguageModel) -> LanguageModel:
    """The tiny GPT-2 with its initial adapter, under both engines: one object for the session, as in a worker."""
    shared_lm.set_adapter(shared_lm.initial_adapter())
    return shared_lm


@pytest.fixture(scope="session")
def texts(gpt2_folder: Path) -> list[np.ndarray]:
    return load_tokenizer(str(gpt2_folder)).encode(SENTENCES * 2, max_length=32)


@pytest.fixture(scope="session")
def recipe() -> TrainingRecipe:
    return TrainingRecipe(
        num_epochs=2,
        batch_size=4,
        learning_rate=1e-2,
        weight_decay=0.01,
        warmup_steps=0,
        gradient_accumulation_steps=1,
        max_grad_norm=1.0,
        logging_steps=1,
        save_steps=1000,
        eval_steps=1000,
        fp16=False,
        shuffle_dataset=True,
        max_samples_per_client=None,
        gradient_checkpointing=False,
        engine="auto",
        precision="fp32",
        num_threads=1,
        local_optimizer="adamw",
        sgd_momentum=0.0,
        optimizer_state="reset",
        factors="both",
        shared="both",
        method=LocalMethodSpec("fedavg", mu=None, alpha=None),
    )


@pytest.fixture
def first_tokens(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The first token of every text that goes through a model from here on, in order, under both engines."""
    seen: list[int] = []

    def collated(texts: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        seen.extend(int(text[0]) for text in texts)
        return collate(texts)

    def packed(clients: Sequence[Sequence[np.ndarray]], *options: Any) -> Packed:
        seen.extend(int(text[0]) for texts in clients for text in texts)
        return pack(clients, *options)

    monkeypatch.setattr("fedmq.learning.hf.collate", collated)
    monkeypatch.setattr("fedmq.learning.fast.model.pack", packed)
    return seen


@pytest.fixture
def trained(lm: LanguageModel) -> LanguageModel:
    """`lm` with an adapter that does something: B is not zero."""
    rng = np.random.default_rng(3)
    lm.set_adapter(
        {name: rng.normal(0, 0.2, value.shape).astype(np.float32) for name, value in lm.initial_adapter().items()}
    )
    return lm
