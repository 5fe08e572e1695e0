"""Text generation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice, takewhile

import torch
import transformers
from transformers import GenerationConfig

from fedmq.errors import ConfigError
from fedmq.learning.fast.decode import next_tokens
from fedmq.learning.models import LanguageModel
from fedmq.learning.tokenizer import library_warnings_to_log
from fedmq.rng import derive_seed


def generate(
    lm: LanguageModel, prompts: Sequence[str], *, max_new_tokens: int, temperature: float, seed: int
) -> list[str]:
    """Continue each prompt until EOS or for `max_new_tokens` tokens.

    Sampling is from the whole distribution (no top-k, no top-p). What follows a prompt depends on
    the model, the prompt and `seed` alone, not on the other prompts.

    Args:
      lm: base and adapter.
      prompts: starts of texts; the empty one is the start of any text.
      max_new_tokens: at least 1.
      temperature: divides the logits; 0 takes the most likely token each time.
      seed: 32 bits.

    Returns:
      The continuations, without the prompts.

    Raises:
      ConfigError: a prompt and `max_new_tokens` together are longer than the model can read.
    """
    return [
        _continue(lm, ids, max_new_tokens, temperature, derive_seed(seed, f"generate {prompt}"))
        for prompt, ids in zip(prompts, encode_prompts(lm, prompts, max_new_tokens), strict=True)
    ]


def encode_prompts(lm: LanguageModel, prompts: Sequence[str], max_new_tokens: int) -> list[list[int]]:
    """Token ids of each prompt.

    Raises:
      ConfigError: a prompt and `max_new_tokens` together are longer than the model can read.
    """
    encoded = [lm.tokenizer.encode_prompt(prompt) for prompt in prompts]
    for prompt, ids in zip(prompts, encoded, strict=True):
        if lm.max_positions is not None and len(ids) + max_new_tokens > lm.max_positions:
            raise ConfigError(
                f"prompt {prompt[:40]!r} has {len(ids)} tokens: with max_new_tokens {max_new_tokens} "
                f"that is more than the model's {lm.max_positions} positions"
            )
    return encoded


def _continue(lm: LanguageModel, ids: list[int], max_new_tokens: int, temperature: float, seed: int) -> str:
    eos = lm.tokenizer.eos_token_id
    if lm.packed is not None:
        tokens = islice(next_tokens(lm.packed, lm.get_adapter(), ids, temperature, seed), max_new_tokens)
        output = [*ids, *takewhile(lambda token: token != eos, tokens)]
    else:
        output = _library(lm, ids, max_new_tokens, temperature, seed)
    # Some tokenizers drop the space before the first word of what they decode: decode all and cut.
    whole, start = lm.tokenizer.decode(output), lm.tokenizer.decode(ids)
    return whole.removeprefix(start)


def _library(lm: LanguageModel, ids: list[int], max_new_tokens: int, temperature: float, seed: int) -> list[int]:
    sampling = (
        {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        if temperature > 0
        else {"do_sample": False}
    )
    eos = lm.tokenizer.eos_token_id
    config = GenerationConfig(
        max_new_tokens=max_new_tokens, eos_token_id=eos, pad_token_id=eos, use_cache=True, **sampling
    )
    input_ids = torch.tensor([ids], device=lm.device)
    lm.model.eval()
    with torch.random.fork_rng(lm.cuda_devices), library_warnings_to_log(), _settings(lm, config) as model:
        torch.manual_seed(seed)
        output: list[int] = model.generate(
            input_ids=input_ids, attention_mask=torch.ones_like(input_ids), generation_config=config
        )[0].tolist()
    return output


@contextmanager
def _settings(lm: LanguageModel, config: GenerationConfig) -> Iterator[transformers.PreTrainedModel]:
    """The base, adapter in place, without its own generation_config.json, from which the library fills every gap."""
    model = lm.model.get_base_model()
    own, model.generation_config = model.generation_config, config
    try:
        yield model
    finally:
        model.generation_config = own
