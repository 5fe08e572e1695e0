"""Tokens of texts, and where a base model's name leads."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import transformers

import fedmq
from fedmq.errors import ModelError
from fedmq.learning.tokenizer import BUNDLED, find_folder, library_warnings_to_log, load_tokenizer

PACKAGE = Path(fedmq.__file__).parent


def test_every_text_ends_with_one_eos(gpt2_folder: Path) -> None:
    tokenizer = load_tokenizer(str(gpt2_folder))
    assert (tokenizer.eos_token_id, tokenizer.vocab_size) == (0, 400)
    short, empty, long = tokenizer.encode(["hello", "", "my order " * 50], max_length=8)
    assert short[-1] == 0 and list(short).count(0) == 1
    assert empty.tolist() == [0]
    assert len(long) == 8 and long[-1] == 0 and 0 not in long[:-1]
    assert tokenizer.decode(short) == "hello"
    assert tokenizer.encode_prompt("hello") == short[:-1].tolist()
    assert tokenizer.encode_prompt("") == [0]


def test_any_text_comes_back(gpt2_folder: Path) -> None:
    tokenizer = load_tokenizer(str(gpt2_folder))
    for text in ("caf\u00e9 \u2603 \U0001f621", "  two  spaces ", "line\nbreak", "spelled <|endoftext|> is no end"):
        (ids,) = tokenizer.encode([text], max_length=200)
        assert list(ids).count(0) == 1
        assert tokenizer.decode(ids) == text


def test_encoding_does_not_change_the_digest(gpt2_folder: Path) -> None:
    first = load_tokenizer(str(gpt2_folder))
    first.encode(["text"], max_length=2)
    assert load_tokenizer(str(gpt2_folder)).digest == first.digest
    assert load_tokenizer(str(gpt2_folder)).encode(["a b c d e f g h"], 99)[0].size > 8


def test_an_eos_that_the_tokenizer_appends_is_not_doubled(gpt2_folder: Path, tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    fast = transformers.AutoTokenizer.from_pretrained(gpt2_folder)
    fast.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)]
    )
    shutil.copytree(gpt2_folder, tmp_path / "m")
    fast.save_pretrained(tmp_path / "m")
    tokenizer = load_tokenizer(str(tmp_path / "m"))
    assert tokenizer.digest != load_tokenizer(str(gpt2_folder)).digest
    (ids,) = tokenizer.encode(["hello"], max_length=9)
    assert ids[0] == 0 and ids[-1] == 0 and list(ids).count(0) == 2
    assert ids[-2] != 0


def test_gpt2_folder_with_vocab_and_merges_only(shared_data: Path, tmp_path: Path) -> None:
    transformers.GPT2Config().save_pretrained(tmp_path)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(shared_data / "gpt2-tokenizer" / name, tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    assert (tokenizer.vocab_size, tokenizer.eos_token_id) == (50_257, 50_256)
    assert tokenizer.encode(["Hello world"], max_length=10)[0].tolist() == [15496, 995, 50256]


def test_names_that_lead_nowhere(tmp_path: Path, gpt2_folder: Path) -> None:
    with pytest.raises(ModelError, match="not a model folder"):
        load_tokenizer(str(tmp_path))
    shutil.copy(gpt2_folder / "config.json", tmp_path)
    with pytest.raises(ModelError, match="no tokenizer in"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read") as raised:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(raised.value)
    for name in ("./nowhere", "/nowhere", "a/b/c"):
        with pytest.raises(ModelError, match="no such folder"):
            find_folder(name)
    with pytest.raises(ModelError, match="valid hub id"):
        find_folder("not a name")


def test_a_tokenizer_without_eos_is_refused(gpt2_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(gpt2_folder, tmp_path / "m")
    fast = transformers.AutoTokenizer.from_pretrained(gpt2_folder)
    transformers.PreTrainedTokenizerFast(tokenizer_object=fast.backend_tokenizer).save_pretrained(tmp_path / "m")
    with pytest.raises(ModelError, match="no EOS"):
        load_tokenizer(str(tmp_path / "m"))


def test_offline_without_the_model_is_one_line_at_once(tmp_path: Path) -> None:
    # A port that nobody listens on: every request to the hub is refused.
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        code = (
            "from fedmq.errors import ModelError\nfrom fedmq.learning.tokenizer import find_folder\n"
            "try: find_folder('gpt2')\nexcept ModelError as error: print(error)"
        )
        environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=PACKAGE.parent,
        )
    assert done.stderr == ""
    assert done.stdout == (
        "base model 'gpt2' is neither a local folder nor in the Hugging Face cache, and "
        'huggingface.co cannot be reached: give model.model_name a folder, or use "fedmq-tiny"\n'
    )


def test_a_model_in_the_hub_cache_is_found_offline(gpt2_folder: Path, tmp_path: Path) -> None:
    commit = "0" * 40
    repo = tmp_path / "models--someone--tiny"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    shutil.copytree(gpt2_folder, repo / "snapshots" / commit)
    assert find_folder("someone/tiny", str(tmp_path)) == repo / "snapshots" / commit
    assert load_tokenizer("someone/tiny", str(tmp_path)).vocab_size == 400


@pytest.mark.parametrize("missing", ["tokenizer", "shard", "weights", "config", "nothing"])
def test_a_part_of_a_model_in_the_hub_cache_is_completed_or_refused(
    gpt2_folder: Path, tmp_path: Path, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0" * 40
    repo = tmp_path / "models--someone--tiny"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    folder = repo / "snapshots" / commit
    shutil.copytree(gpt2_folder, folder)
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    (folder / "model.safetensors").rename(folder / shards[0])
    shutil.copy(folder / shards[0], folder / shards[1])
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict(zip("ab", shards, strict=True))})
    )
    gone = {
        "tokenizer": ["tokenizer.json"],
        "shard": shards[1:],
        "weights": [*shards, "model.safetensors.index.json"],
        "config": ["config.json"],
        "nothing": [],
    }[missing]
    kept = {name: (folder / name).read_bytes() for name in gone}
    for name in gone:
        (folder / name).unlink()
    asked: list[bool] = []
    real = huggingface_hub.snapshot_download

    def download(*args: Any, local_files_only: bool, **options: Any) -> str:
        asked.append(not local_files_only)
        if not local_files_only and online:
            for name, content in kept.items():
                (folder / name).write_bytes(content)
        return real(*args, local_files_only=True, **options)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    online = False
    if missing != "nothing":
        with pytest.raises(ModelError, match=r"is not in .*huggingface.co does not have it or cannot be reached") as no:
            find_folder("someone/tiny", str(tmp_path))
        assert "\n" not in str(no.value)
        assert (gone[0] if missing in ("shard", "config") else missing) in str(no.value)
        assert asked == [False, True]
    online = True
    asked.clear()
    assert find_folder("someone/tiny", str(tmp_path)) == folder
    assert asked == ([False] if missing == "nothing" else [False, True])


def test_the_libraries_speak_again_afterwards() -> None:
    chatter = transformers.utils.logging
    before = chatter.get_verbosity(), chatter.is_progress_bar_enabled()
    try:
        chatter.set_verbosity_info()
        chatter.enable_progress_bar()
        with library_warnings_to_log(), library_warnings_to_log():
            assert chatter.get_verbosity() == chatter.ERROR and not chatter.is_progress_bar_enabled()
        assert chatter.get_verbosity() == chatter.INFO and chatter.is_progress_bar_enabled()
        assert not huggingface_hub.utils.are_progress_bars_disabled()
    finally:
        chatter.set_verbosity(before[0])
        (chatter.enable_progress_bar if before[1] else chatter.disable_progress_bar)()


def test_the_bundled_base_is_in_the_package() -> None:
    assert BUNDLED["fedmq-tiny"] == PACKAGE / "assets" / "fedmq-tiny"
