"""Text generation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice, takewhile

import torch
import transformers
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from fedmq.errors import ConfigError
from fedmq.learning.fast.decode import next_tokens
from fedmq.learning.models import LanguageModel
from fedmq.learning.tokenizer import library_warnings_to_log
from fedmq.rng import derive_seed

#: Told of each piece of text as it is made: of which prompt, by position, and the piece.
OnText = Callable[[int, str], None]


def generate(
    lm: LanguageModel,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    top_p: float = 1.0,
    on_text: OnText | None = None,
) -> list[str]:
    """Continue each prompt until EOS or for `max_new_tokens` tokens.

    What follows a prompt depends on the model, the prompt and `seed` alone, not on the other prompts.

    Args:
      lm: base and adapter.
      prompts: starts of texts; the empty one is the start of any text.
      max_new_tokens: at least 1.
      temperature: divides the logits; 0 takes the most likely token each time.
      seed: 32 bits.
      top_p: in (0, 1]: sampling is from the most likely tokens that together have this probability; 1 is all.
      on_text: the pieces of a continuation, joined, are what is returned.

    Returns:
      The continuations, without the prompts.

    Raises:
      ConfigError: a prompt and `max_new_tokens` together are longer than the model can read.
    """
    texts = []
    for position, ids in enumerate(encode_prompts(lm, prompts, max_new_tokens)):
        own_seed = derive_seed(seed, f"generate {prompts[position]}")
        pieces = _Pieces(lm, ids, None if on_text is None else partial(on_text, position))
        if lm.packed is not None:
            tokens = next_tokens(lm.packed, lm.get_adapter(), ids, temperature, own_seed, top_p)
            for token in takewhile(lambda token: token != lm.tokenizer.eos_token_id, islice(tokens, max_new_tokens)):
                pieces.add(token)
        else:
            _library(lm, ids, pieces, max_new_tokens, temperature, top_p, own_seed)
        texts.append(pieces.end())
    return texts


def encode_prompts(lm: LanguageModel, prompts: Sequence[str], max_new_tokens: int) -> list[list[int]]:
    """Token ids of each prompt.

    Raises:
      ConfigError: a prompt and `max_new_tokens` together are longer than the model can read.
    """
    encoded = [lm.tokenizer.encode_prompt(prompt) for prompt in prompts]
    for prompt, ids in zip(prompts, encoded, strict=True):
        if lm.max_positions is not None and len(ids) + max_new_tokens > lm.max_positions:
            left = lm.max_positions - len(ids)
            way_out = f"lower max_new_tokens to {left} or less" if left > 0 else "shorten the prompt"
            raise ConfigError(
                f"prompt {prompt[:40]!r} has {len(ids)} tokens: with max_new_tokens {max_new_tokens} "
                f"that is more than the model's {lm.max_positions} positions; {way_out}"
            )
    return encoded


class _Pieces:
    """The text of tokens that come one by one: what is whole is passed on at once, half a character waits."""

    def __init__(self, lm: LanguageModel, ids: list[int], on_piece: Callable[[str], None] | None) -> None:
        self._decode, self._eos, self._on_piece = lm.tokenizer.decode, lm.tokenizer.eos_token_id, on_piece
        # Some tokenizers drop the space before the first word of what they decode: all is decoded, and cut.
        self._start, self._ids, self._said = lm.tokenizer.decode(ids), list(ids), ""

    def add(self, token: int) -> None:
        """The next token; EOS is no text."""
        if token == self._eos:
            return
        self._ids.append(token)
        if self._on_piece is None:
            return
        text = self._text()
        if text.startswith(self._said) and not text.endswith("\N{REPLACEMENT CHARACTER}"):
            self._say(text)

    def end(self) -> str:
        """No token is to come: the whole text."""
        text = self._text()
        self._say(text)
        return text

    def _text(self) -> str:
        return self._decode(self._ids).removeprefix(self._start)

    def _say(self, text: str) -> None:
        piece, self._said = text[len(self._said) :], text
        if piece and self._on_piece is not None:
            self._on_piece(piece)


class _Listener(BaseStreamer):  # type: ignore[misc]  # transformers is not typed here
    """Hears of the library's tokens; the prompt comes first, and whole."""

    def __init__(self, pieces: _Pieces) -> None:
        self._pieces, self._prompt_is_next = pieces, True

    def put(self, value: torch.Tensor) -> None:
        if not self._prompt_is_next:
            self._pieces.add(int(value))
        self._prompt_is_next = False

    def end(self) -> None:
        pass


def _library(
    lm: LanguageModel, ids: list[int], pieces: _Pieces, max_new_tokens: int, temperature: float, top_p: float, seed: int
) -> None:
    sampling = (
        {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": top_p}
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
        model.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            generation_config=config,
            streamer=_Listener(pieces),
        )


@contextmanager
def _settings(lm: LanguageModel, config: GenerationConfig) -> Iterator[transformers.PreTrainedModel]:
    """The base, adapter in place, without its own generation_config.json, from which the library fills every gap."""
    model = lm.model.get_base_model()
    own, model.generation_config = model.generation_config, config
    try:
        yield model
    finally:
        model.generation_config = own
