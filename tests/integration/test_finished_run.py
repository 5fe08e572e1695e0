"""The commands that use a finished run: inspect, evaluate, generate, export, and run again."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
from pathlib import Path
from typing import Any

import huggingface_hub
import peft
import pytest
from click.testing import CliRunner
from plain_libraries import mean_loss, opened_as_its_card_says
from running import FEDMQ, environment, fedmq

from fedmq.cli import main
from fedmq.protocol.printable import readable

#: The libraries warn of each other.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


def here(*arguments: object) -> str:
    """`fedmq ARGUMENTS` in this process, which has loaded torch already; returns its standard output."""
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return done.stdout


def test_inspect(finished: Path) -> None:
    done = fedmq("inspect", "run", cwd=finished)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(fedmq("inspect", "run", "--json", cwd=finished).stdout)
    assert (found["status"], found["committed"], found["num_rounds"]) == ("done", 2, 2)
    assert found["scores"].keys() == {"0", "1", "2"}
    assert found["live"] is None and found["warnings"] == []
    texts = {(g["version"], g["prompt"]): g["text"] for g in found["generations"]}
    assert texts.keys() == {(version, prompt) for version in (0, 1, 2) for prompt in ("My order", "Thanks")}
    assert len({texts[version, "My order"] for version in (0, 1, 2)}) > 1, "each is of its own version"
    assert "run: done" in done.stdout and found["digest"] in done.stdout
    for row in found["rounds"]:
        for client in row["client_metrics"]:
            assert client["client_id"] in done.stdout


def test_evaluate_gives_the_last_loss_of_the_run(finished: Path) -> None:
    result = json.loads(here("evaluate", finished / "run", "--json"))
    last = json.loads((finished / "run" / "global_metrics.json").read_text())[-1]
    assert result.keys() == {"eval_loss", "perplexity", "num_examples", "num_tokens"}
    assert result["eval_loss"] == pytest.approx(last["eval_loss"], rel=1e-6)
    assert (result["num_examples"], result["num_tokens"]) == (last["num_examples"], last["num_tokens"])


def test_evaluate_scores_all_rows_of_a_csv_that_pass_the_filters(finished: Path, tmp_path: Path) -> None:
    text = "How long does a refund take? It has been two weeks now."
    rows = [
        "text,author_id,inbound",
        f"{text},1,True",
        f"More of it: {text},1,True",
        "short,1,True",
        f"{text} x,2,False",
    ]
    (tmp_path / "own.csv").write_text("\n".join(rows) + "\n")
    lines = here("evaluate", finished / "run", "--data", tmp_path / "own.csv").splitlines()
    values = dict(line.split() for line in lines)
    assert list(values) == ["eval_loss", "perplexity", "num_examples", "num_tokens"]
    assert values["num_examples"] == "2"


def test_generate_prints_the_texts_and_nothing_else(finished: Path) -> None:
    options = ("--prompt", "My order", "--prompt", "Thanks", "--max-new-tokens", 5, "--seed", 3)
    command = ("generate", finished / "run", *options)
    sampled = here(*command)
    assert sampled.startswith("My order") and "\nThanks" in sampled
    assert here(*command) == sampled, "the same seed, the same texts"
    greedy = here(*command, "--temperature", 0)
    assert greedy.startswith("My order") and greedy != sampled


def test_generate_streams_to_a_terminal_what_it_prints_to_a_file(finished: Path) -> None:
    options = ("--prompt", "My order", "--prompt", "Thanks", "--max-new-tokens", 30, "--seed", 3, "--top-p", 0.9)
    whole = here("generate", finished / "run", *options)
    assert here("generate", finished / "run", *options, "--stream") == whole
    primary, secondary = pty.openpty()
    command = [*FEDMQ, "generate", "run", *map(str, options)]
    streams: dict[str, Any] = {"stdin": secondary, "stdout": secondary, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=finished, env=environment(), **streams) as process:
        os.close(secondary)
        reads = []
        # Linux ends a terminal that nobody holds with EIO.
        with contextlib.suppress(OSError):
            while read := os.read(primary, 1 << 16):
                reads.append(read)
        errors = process.stderr.read()
    os.close(primary)
    assert (process.returncode, errors) == (0, b"")
    assert b"".join(reads).decode().replace("\r\n", "\n") == whole
    assert len(reads) > 2, "it came in pieces"
    said = json.loads(here("generate", finished / "run", *options, "--json"))["generations"]
    assert "".join(readable(text["prompt"] + text["text"]) + "\n" for text in said) == whole
    done = CliRunner().invoke(
        main, ["generate", str(finished / "run"), "--prompt", "-", *map(str, options[4:])], input="My order\n\nThanks\n"
    )
    assert done.stdout == whole


@pytest.mark.parametrize(
    ("row", "options", "said"),
    [
        ("B64 no tokens to take", ("--top-p", 0), "0<x<=1"),
        ("B64 a probability that is none", ("--top-p", "nan"), "top_p: got nan, expected a probability > 0 and <= 1"),
        ("B64 a temperature that is none", ("--temperature", "inf"), "temperature: got inf, expected a number >= 0"),
        ("B64 a prompt longer than the context", ("--prompt", "word " * 400), "positions; shorten the prompt"),
        ("B64 more than the context", ("--max-new-tokens", 5000), "lower max_new_tokens to"),
        ("B64 two forms at once", ("--stream", "--json"), "exclude each other"),
        ("B64 no prompt", ("--prompt", "-"), "standard input holds no opening"),
    ],
)
def test_generate_refuses_in_one_line(finished: Path, row: str, options: tuple[object, ...], said: str) -> None:
    done = CliRunner().invoke(main, ["generate", str(finished / "run"), "--prompt", "My order", *map(str, options)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr and done.stderr.count("\n") == 1


TEXTS = ["How long does a refund take? It has been two weeks now.", "Please restart your phone and try again, " * 20]


@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_an_export_opens_as_its_card_says_and_scores_as_the_run(finished: Path, tmp_path: Path, form: str) -> None:
    out, csv = tmp_path / form, tmp_path / "own.csv"
    here("export", finished / "run", "--out", out, *(["--merge"] if form == "merged" else []))
    csv.write_text("text,author_id,inbound\n" + "".join(f'"{text}",1,True\n' for text in TEXTS))
    score = json.loads(here("evaluate", finished / "run", "--data", csv, "--json"))
    names, config = opened_as_its_card_says(out), json.loads((finished / "config.json").read_text())
    assert type(names["model"]).__module__.partition(".")[0] == {"adapter": "peft", "merged": "transformers"}[form]
    assert len({path.stat().st_mode for path in out.iterdir()}) == 1, "who may read the card may read the model"
    loss = mean_loss(names, TEXTS, config["model"]["max_length"])
    assert loss == pytest.approx(score["eval_loss"], rel=1e-5)
    if form == "adapter":
        with names["model"].disable_adapter():
            assert abs(mean_loss(names, TEXTS, config["model"]["max_length"]) - loss) > 1e-3, "the adapter counts"
        auto = peft.AutoPeftModelForCausalLM.from_pretrained(out).eval()
        assert mean_loss(names | {"model": auto}, TEXTS, config["model"]["max_length"]) == pytest.approx(loss)


def test_the_card_of_an_export(finished: Path, tmp_path: Path) -> None:
    here("export", finished / "run", "--out", tmp_path / "adapter")
    card = huggingface_hub.ModelCard.load(tmp_path / "adapter" / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("peft", "text-generation")
    assert {"lora", "federated-learning"} <= set(card.data.tags) and card.data.base_model is None, "a folder is no id"
    found = json.loads(fedmq("inspect", "run", "--json", cwd=finished).stdout)
    first, last = found["scores"]["0"], found["scores"]["2"]
    for score in (first, last):
        assert f"| {score['eval_loss']:.4f} | {score['perplexity']:.2f} |" in card.text
    assert found["digest"] in card.text and found["provenance"]["base_digest"] in card.text
    assert f"| clients | {len(found['provenance']['clients'])} |" in card.text and "| rounds | 2 of 2" in card.text
    assert card.text.count("[to be filled in") == 4
    for text in (*TEXTS, *(row["text"] for row in found["generations"]), "My order", "client_0"):
        assert text not in card.text


def test_export_replaces_nothing(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("years of work")
    done = fedmq("export", "run", "--out", tmp_path, "--merge", cwd=finished)
    assert done.returncode == 2
    assert done.stderr.startswith("fedmq: ") and done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_a_finished_run_is_resumed_by_doing_nothing(finished: Path) -> None:
    before = (finished / "run" / "global_model" / "round_final" / "adapter_model.safetensors").stat().st_mtime_ns
    done = fedmq("run", "config.json", "--resume", "--json", cwd=finished)
    assert done.returncode == 0
    summary = json.loads(done.stdout)
    assert summary["digest"] == json.loads(fedmq("inspect", "run", "--json", cwd=finished).stdout)["digest"]
    after = (finished / "run" / "global_model" / "round_final" / "adapter_model.safetensors").stat().st_mtime_ns
    assert after == before
    assert "nothing is left to do" in fedmq("run", "config.json", "--resume", cwd=finished).stdout
