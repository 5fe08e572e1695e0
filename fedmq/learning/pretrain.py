"""Makes the bundled base `fedmq-tiny`: a byte-level BPE tokenizer and a small GPT-2, from free text.

Usage: python -m fedmq.learning.pretrain --corpus-dir DIR --out fedmq/assets/fedmq-tiny

`DIR` is written by `fedmq.learning.corpus`. The same corpus, options, thread count and library
versions on the same kind of processor give the same bytes. While training, the folder is replaced
by a newer model every `--save-every` steps, so that one can be tried early.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel

from fedmq.errors import DataError
from fedmq.learning.pretrain_card import HELD_OUT_EVERY, Measured, card
from fedmq.rng import derive, derive_seed

END = "<|endoftext|>"
_WARMUP_SHARE = 0.04


@dataclass(frozen=True)
class Pretraining:
    """What decides the result, beside the corpus: model size, length of training, seed."""

    vocab_size: int = 4096
    n_layer: int = 6
    n_embd: int = 192
    n_head: int = 6
    n_positions: int = 256
    steps: int = 1600
    batch_size: int = 16
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    save_every: int = 200
    num_threads: int = 1
    seed: int = 42


class Corpus(NamedTuple):
    """Documents by source, in file order."""

    train: dict[str, list[str]]
    held_out: dict[str, list[str]]
    sha256: dict[str, str]


def read_corpus(folder: Path) -> Corpus:
    """Read `*.txt`: a blank line ends a document; every 50th is held out.

    Raises:
      DataError: there is no text file.
    """
    train, held_out, sha256 = {}, {}, {}
    for path in sorted(folder.glob("*.txt")):
        text = path.read_text(encoding="utf-8")
        documents = [document.strip() for document in text.split("\n\n") if document.strip()]
        held_out[path.stem] = documents[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
        train[path.stem] = [d for i, d in enumerate(documents, start=1) if i % HELD_OUT_EVERY]
        sha256[path.stem] = hashlib.sha256(text.encode()).hexdigest()
    if not train:
        raise DataError(f"{folder}: no *.txt file there; make them with python -m fedmq.learning.corpus")
    return Corpus(train, held_out, sha256)


def train_tokenizer(documents: list[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer as GPT-2's: every text can be encoded, nothing is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def pack(tokenizer: Tokenizer, documents: list[str], length: int) -> torch.Tensor:
    """Encode, end each document with END, join, and cut into blocks.

    Returns:
      int64 tensor (num_blocks, length); the rest that fills no block is dropped.
    """
    end = tokenizer.token_to_id(END)
    pieces = [np.array([*encoding.ids, end], dtype=np.int64) for encoding in tokenizer.encode_batch(documents)]
    stream = np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int64)
    return torch.from_numpy(stream[: len(stream) // length * length].reshape(-1, length))


def learning_rate(step: int, options: Pretraining) -> float:
    """Linear warm-up over 4 % of the steps, then linear to zero."""
    warmup = max(1, round(options.steps * _WARMUP_SHARE))
    return options.learning_rate * min((step + 1) / warmup, (options.steps - step) / max(1, options.steps - warmup))


def held_out_loss(model: GPT2LMHeadModel, blocks: torch.Tensor, batch_size: int) -> float:
    """Mean negative log-likelihood per token, in nats, over packed blocks; nan when there is none."""
    if not len(blocks):
        return math.nan
    model.eval()
    total = 0.0
    with torch.inference_mode():
        for batch in blocks.split(batch_size):
            total += float(_loss(model, batch)) * len(batch)
    model.train()
    return total / len(blocks)


def _loss(model: GPT2LMHeadModel, batch: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=batch).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.reshape(-1, logits.size(-1)).float(), batch[:, 1:].reshape(-1))


def build_model(tokenizer: Tokenizer, options: Pretraining) -> GPT2LMHeadModel:
    """A GPT-2 with tied embeddings and no dropout (the corpus is seen about once)."""
    end = tokenizer.token_to_id(END)
    config = GPT2Config(
        vocab_size=tokenizer.get_vocab_size(),
        n_positions=options.n_positions,
        n_embd=options.n_embd,
        n_layer=options.n_layer,
        n_head=options.n_head,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        activation_function="gelu_pytorch_tanh",  # the same function as GPT-2's gelu_new, in one kernel
        bos_token_id=end,
        eos_token_id=end,
    )
    model = GPT2LMHeadModel(config)
    model.set_attn_implementation("eager")  # faster than the fused kernel at this size, on a CPU
    return model


def build_optimizers(model: GPT2LMHeadModel, options: Pretraining) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for embeddings and vectors, as Muon's authors advise."""
    named = dict(model.named_parameters())
    matrices = [p for name, p in named.items() if ".h." in name and p.ndim == 2]
    rest = [p for name, p in named.items() if not (".h." in name and p.ndim == 2)]
    rate, decay = options.learning_rate, options.weight_decay
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def pretrain(corpus_dir: Path, out: Path, options: Pretraining) -> None:
    """Train tokenizer and model, and write the folder `out` (replaced at every save).

    Args:
      corpus_dir: text files, and `sources.json` for the card when it is there.
      out: a plain transformers folder, weights in float16, with a card in README.md.
      options: sizes, steps, seed, threads.
    """
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(options.num_threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a quarter of the time
    torch.manual_seed(derive_seed(options.seed, "pretrain-init"))
    corpus = read_corpus(corpus_dir)
    tokenizer = train_tokenizer([d for documents in corpus.train.values() for d in documents], options.vocab_size)
    length = options.n_positions
    train = torch.cat([pack(tokenizer, documents, length) for documents in corpus.train.values()])
    if not len(train):
        raise DataError(f"{corpus_dir}: too little text to fill one block of {length} tokens")
    held_out = {name: pack(tokenizer, documents, length) for name, documents in corpus.held_out.items()}
    model = build_model(tokenizer, options)
    optimizers = build_optimizers(model, options)
    print(f"{model.num_parameters():,} parameters, {train.numel():,} training tokens", flush=True)

    order = np.zeros(0, dtype=np.int64)
    for step in range(options.steps):
        while len(order) < options.batch_size:
            epoch = (step * options.batch_size + len(order)) // len(train)
            order = np.concatenate([order, derive(options.seed, "pretrain-order", epoch).permutation(len(train))])
        batch, order = train[order[: options.batch_size]], order[options.batch_size :]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = _loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, options)
            optimizer.step()
        model.zero_grad(set_to_none=True)
        if step % 50 == 0:
            print(f"step {step} loss {loss.item():.3f}", flush=True)
        if (step + 1) % options.save_every == 0 or step + 1 == options.steps:
            losses = {name: held_out_loss(model, blocks, options.batch_size) for name, blocks in held_out.items()}
            print(f"saved at step {step + 1}, held-out loss {losses}", flush=True)
            measured = Measured(
                parameters=model.num_parameters(),
                steps=step + 1,
                epoch_tokens=train.numel(),
                held_out_tokens={name: blocks.numel() for name, blocks in held_out.items()},
                held_out_bytes={name: _num_bytes(tokenizer, blocks) for name, blocks in held_out.items()},
                held_out_loss=losses,
                sha256=corpus.sha256,
            )
            save(out, model, tokenizer, card(asdict(options), measured, _sources(corpus_dir)))


def _num_bytes(tokenizer: Tokenizer, blocks: torch.Tensor) -> int:
    return sum(len(text.encode()) for text in tokenizer.decode_batch(blocks.tolist()))


def _sources(corpus_dir: Path) -> dict[str, dict[str, str]]:
    path = corpus_dir / "sources.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def save(out: Path, model: GPT2LMHeadModel, tokenizer: Tokenizer, readme: str) -> None:
    """Write the model folder beside `out`, then put it in its place."""
    draft, old = out.with_name(out.name + ".new"), out.with_name(out.name + ".old")
    shutil.rmtree(draft, ignore_errors=True)
    half = GPT2LMHeadModel(model.config)
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(draft)
    (draft / "model.safetensors").chmod(0o644)
    tokenizer.save(str(draft / "tokenizer.json"))
    # Written by hand: the class name that every transformers release since 4.0 can load.
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": model.config.n_positions}
    settings |= {"bos_token": END, "eos_token": END, "unk_token": END, "clean_up_tokenization_spaces": False}
    (draft / "tokenizer_config.json").write_text(
        json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )
    (draft / "README.md").write_text(readme, encoding="utf-8")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    draft.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def main() -> None:
    """Parse the command line and pretrain."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    for key, default in asdict(Pretraining()).items():
        parser.add_argument(f"--{key.replace('_', '-')}", type=type(default), default=default)
    given = vars(parser.parse_args())
    pretrain(given.pop("corpus_dir"), given.pop("out"), Pretraining(**given))


if __name__ == "__main__":
    main()
