"""`tests/fuzz/fuzz_decoders.py`, which follows the decoders' branches, from one valid input of each kind on."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from examples import DIRECTIONS, example

from fedmq.codec import raw
from fedmq.codec.update import BY_NAME
from fedmq.protocol.frames import Codec

SCRIPT = Path(__file__).resolve().parent.parent / "fuzz" / "fuzz_decoders.py"
RUNS = 1_000_000
#: of the script's decoders, after the headers' of the four directions on the wire
FILES = 4
#: with these seeds it comes to some 180; from nothing on to 63, and hardly beyond the first refusals
COVERED = 150


@pytest.mark.nightly
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is for Linux only")
def test_a_million_inputs_that_follow_the_branches(tmp_path: Path) -> None:
    seeds = [
        (number, Codec(kinds).encode(example(kind)))
        for number, kinds in enumerate(list(DIRECTIONS.values())[:FILES])
        for kind in kinds
    ]
    delta = {"a": np.ones((2, 3), np.float32), "b": np.ones(5, np.float32)}
    seeds.append((FILES, raw.encode(delta)))
    for number, make in enumerate(BY_NAME.values()):
        codec = make()
        # The script puts the header before it.
        seeds.append((FILES + 1 + number, codec.encode(delta, codec.init(delta))[0][24:]))
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for k, (decoder, content) in enumerate(seeds):
        (corpus / str(k)).write_bytes(bytes([decoder]) + content)
    command = [sys.executable, str(SCRIPT), f"-runs={RUNS}", "-seed=1", "-max_len=4096", str(corpus)]
    fuzzed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert fuzzed.returncode == 0, fuzzed.stderr[-3000:]
    assert f"Done {RUNS} runs" in fuzzed.stderr
    branches = int(re.findall(r"cov: (\d+)", fuzzed.stderr)[-1])
    assert branches > COVERED
