"""A base of GPT-2 small's shape that has learnt from the texts, for benchmarks where GPT-2 itself is not at hand.

    python benchmarks/make_base.py FOLDER [--texts CSV] [--tokenizer FOLDER] [--skip 480] [--passes 6]

All weights are trained, from a random start, on the customers' texts after the first `skip`, which are left for the
benchmark; rows of 128 tokens, packed. Thirteen minutes on two cores for 1,200 tweets.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
import transformers
from texts_and_bases import MAX_LENGTH, add_arguments, load_texts

BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("folder")
    parser.add_argument("--skip", type=int, default=480, help="customers' texts left for the benchmark")
    parser.add_argument("--passes", type=int, default=6)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))
    stream = np.concatenate(load_texts(arguments)[arguments.skip :]).astype(np.int64)
    rows = torch.from_numpy(stream[: len(stream) // MAX_LENGTH * MAX_LENGTH].reshape(-1, MAX_LENGTH))
    steps = arguments.passes * -(-len(rows) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, weight_decay=0.1)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
    for done in range(1, arguments.passes + 1):
        losses = []
        for batch in rows[torch.randperm(len(rows))].split(BATCH):
            loss = model(batch, labels=batch, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
        print(f"pass {done} of {arguments.passes}: loss {np.mean(losses):.3f}", flush=True)
    model.save_pretrained(arguments.folder)
    transformers.AutoTokenizer.from_pretrained(arguments.tokenizer).save_pretrained(arguments.folder)


if __name__ == "__main__":
    main()
