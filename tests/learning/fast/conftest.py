"""Fixtures of engine "fast"."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedmq.learning.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture(scope="session")
def tokenizer(gpt2_folder: Path) -> Tokenizer:
    """Of 400 tokens, EOS is 0."""
    return load_tokenizer(str(gpt2_folder))
