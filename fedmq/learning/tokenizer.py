"""Where a base model's files are, and its tokenizer."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import numpy as np
import transformers
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

from fedmq.errors import ModelError

__all__ = ["BUNDLED", "Tokenizer", "find_folder", "library_warnings_to_log", "load_tokenizer", "one_line"]

log = logging.getLogger(__name__)

#: Base models that come with the package: name -> folder
BUNDLED = {"fedmq-tiny": Path(__file__).resolve().parent.parent / "assets" / "fedmq-tiny"}

#: One of these is a tokenizer; so are vocab.json and merges.txt together.
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "*.model", "*.tiktoken")
_HUB_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Tokenizer:
    """A fast tokenizer of the `transformers` library, with what a run must know of it.

    Attributes:
      fast: the library's tokenizer, with neither truncation nor padding set.
      eos_token_id: the end of every text.
      vocab_size: number of token ids, added tokens included.
      digest: SHA-256 in hex over the tokenizer's JSON and the EOS id: equal digests give equal tokens.
    """

    fast: transformers.PreTrainedTokenizerFast
    eos_token_id: int
    vocab_size: int
    digest: str

    def encode(self, texts: Sequence[str], max_length: int | None) -> list[np.ndarray]:
        """Token ids of each text, EOS last, also where the text was cut to `max_length` tokens.

        Args:
          texts: any strings; one that spells a special token (`<|endoftext|>`) stays plain text.
          max_length: at least 1, in tokens, EOS included; None does not cut.

        Returns:
          One 1-D int64 array per text, not padded.
        """
        encodings = self.fast.backend_tokenizer.encode_batch(list(texts))
        end = None if max_length is None else max_length - 1
        return [np.array([*self._body(e.ids)[:end], self.eos_token_id], np.int64) for e in encodings]

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of the start of a text, without EOS; the empty text starts after an EOS, as in GPT-2."""
        return self._body(self.fast.backend_tokenizer.encode(text).ids) or [self.eos_token_id]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of the ids, special tokens left out."""
        return str(self.fast.backend_tokenizer.decode([int(i) for i in ids], skip_special_tokens=True))

    def _body(self, ids: list[int]) -> list[int]:
        # Some tokenizers append the EOS themselves: it is ours to place.
        return ids[:-1] if ids and ids[-1] == self.eos_token_id else ids


def load_tokenizer(name: str, cache_dir: str | None = None) -> Tokenizer:
    """The tokenizer of a base model.

    Args:
      name: "fedmq-tiny", a local folder, or the id of a model on the Hugging Face hub.
      cache_dir: the hub's cache; None is the library's default.

    Raises:
      ModelError: not found, no tokenizer in it, or one without an EOS token.
    """
    folder = find_folder(name, cache_dir, weights=False)
    if not _has_tokenizer(folder):
        raise ModelError(
            f"base model {name!r}: no tokenizer in {folder} (expected tokenizer.json, or vocab.json and merges.txt)"
        )
    try:
        with library_warnings_to_log():
            fast = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the library raises nearly anything on a damaged file
        raise ModelError(f"base model {name!r}: its tokenizer cannot be read: {one_line(error)}") from error
    backend = getattr(fast, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(f"base model {name!r}: its tokenizer has no fast version (a tokenizer.json)")
    if fast.eos_token_id is None:
        raise ModelError(f"base model {name!r}: its tokenizer has no EOS token, which ends every text in training")
    backend.no_truncation()
    backend.no_padding()
    # A tweet that spells "<|endoftext|>" must not end the text.
    backend.encode_special_tokens = True
    eos = int(fast.eos_token_id)
    digest = hashlib.sha256(f"{backend.to_str()}\neos={eos}".encode()).hexdigest()
    return Tokenizer(fast, eos, len(fast), digest)


def find_folder(name: str, cache_dir: str | None = None, *, weights: bool = True) -> Path:
    """The local folder that holds a base model; from the hub when it must.

    Args:
      name: "fedmq-tiny", a local folder, or a hub id.
      cache_dir: the hub's cache; None is the library's default.
      weights: False asks for the small files only.

    Raises:
      ModelError: in one line, within seconds also on a machine without network.
    """
    folder = BUNDLED.get(name, Path(name).expanduser())
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"base model {name!r}: {folder} is not a model folder (no config.json in it)")
        return folder
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ModelError(f"base model {name!r}: no such folder")
    patterns = ["*.json", "*.txt", "*.model", "*.tiktoken"] + (["*.safetensors"] if weights else [])
    cached = _snapshot(name, cache_dir, patterns, offline=True)
    if cached is None or _missing(cached, weights):
        cached = _snapshot(name, cache_dir, patterns, offline=False)
    if cached is None:
        raise ModelError(
            f"base model {name!r} is neither a local folder nor in the Hugging Face cache, and "
            'huggingface.co cannot be reached: give model.model_name a folder, or use "fedmq-tiny"'
        )
    if missing := _missing(cached, weights):
        raise ModelError(
            f"base model {name!r}: {missing} is not in {cached}, and huggingface.co does not have it or cannot be "
            "reached: try again with a network, or give model.model_name a complete folder"
        )
    return cached


def _missing(folder: Path, weights: bool) -> str | None:
    """What a snapshot lacks: a download that was interrupted, or asked for less, leaves a part of it."""
    if not (folder / "config.json").is_file():
        return "config.json"
    if not _has_tokenizer(folder):
        return "its tokenizer"
    if not weights:
        return None
    for index in folder.glob("*.safetensors.index.json"):
        try:
            shards = set(json.loads(index.read_bytes())["weight_map"].values())
        except (ValueError, LookupError, TypeError, AttributeError):
            return index.name
        return next((name for name in sorted(shards) if not (folder / name).is_file()), None)
    return None if next(folder.glob("*.safetensors"), None) else "a weights file (*.safetensors)"


def _has_tokenizer(folder: Path) -> bool:
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return True
    return any(next(folder.glob(pattern), None) for pattern in _TOKENIZER_FILES)


def _snapshot(name: str, cache_dir: str | None, patterns: list[str], *, offline: bool) -> Path | None:
    try:
        with library_warnings_to_log():
            return Path(
                huggingface_hub.snapshot_download(
                    name,
                    cache_dir=cache_dir,
                    allow_patterns=patterns,
                    ignore_patterns=["*/*", "consolidated*"],
                    etag_timeout=_HUB_TIMEOUT_S,
                    local_files_only=offline,
                )
            )
    except LocalEntryNotFoundError:
        return None
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"base model {name!r}: neither a local folder nor a public model on huggingface.co (for a "
            "private one, log in with `hf auth login`)"
        ) from error
    except HFValidationError as error:
        raise ModelError(f"base model {name!r}: neither a local folder nor a valid hub id") from error
    except Exception as error:  # of any HTTP library, disk or permission
        raise ModelError(f"base model {name!r} cannot be fetched from huggingface.co: {one_line(error)}") from error


@contextmanager
def library_warnings_to_log() -> Iterator[None]:
    """Inside, the Hugging Face libraries print nothing; their Python warnings go to our log."""
    chatter = transformers.utils.logging
    verbosity, bars = chatter.get_verbosity(), chatter.is_progress_bar_enabled()
    hub_bars = not huggingface_hub.utils.are_progress_bars_disabled()
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()
    huggingface_hub.utils.disable_progress_bars()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")  # not an error, where the user made warnings errors
        try:
            yield
        finally:
            chatter.set_verbosity(verbosity)
            if bars:
                chatter.enable_progress_bar()  # the hub's bars too
            elif hub_bars:
                huggingface_hub.utils.enable_progress_bars()
            if not hub_bars:
                huggingface_hub.utils.disable_progress_bars()
            for warning in caught:
                log.debug("%s: %s", warning.category.__name__, one_line(warning.message))


def one_line(error: object) -> str:
    """The first line of a library's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
