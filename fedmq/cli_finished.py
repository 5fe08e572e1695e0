"""The commands that use the model of a run: generate, evaluate, export."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from fedmq.cli_config import json_option, path_type
from fedmq.protocol.printable import readable

_client = click.option(
    "--client",
    metavar="NAME",
    help="Whose own model, after a run with lora_aggregation fedsa or local; default: the global model.",
)


def _finished(run_dir: str, client: str | None) -> Any:
    from fedmq.finished_run import FinishedRun

    run = FinishedRun(run_dir, client)
    if not run.complete:
        rounds = run.config.federated.num_rounds
        click.echo(f"note: {run_dir} ended early; this is its model of round {run.version} of {rounds}", err=True)
    return run


@click.command()
@click.argument("run_dir", type=click.Path())
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    required=True,
    metavar="TEXT",
    help='Opening to be continued; "-" reads openings from standard input, one a line. Repeatable.',
)
@click.option("--max-new-tokens", type=click.IntRange(1), help="Longest continuation, tokens; default: the run's.")
@click.option(
    "--temperature", type=click.FloatRange(0), help="Divides the logits when sampling; 0 = greedy; default: the run's."
)
@click.option(
    "--top-p",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Sample from the most likely tokens that together have this probability.",
)
@click.option("--seed", type=click.IntRange(0), help="Of sampling, a number >= 0; default: the run's.")
@click.option("--device", help="cuda, cuda:N, cpu or mps; default: the run's.")
@click.option("--stream", is_flag=True, help="Print tokens as they are made; default: where stdout is a terminal.")
@_client
@json_option
def generate(
    run_dir: str, prompts: tuple[str, ...], client: str | None, stream: bool, as_json: bool, **options: Any
) -> None:
    """Continue prompts with the global model of RUN_DIR, until the end of the text; only the texts go to stdout."""
    if stream and as_json:
        raise click.UsageError("--stream and --json exclude each other: a JSON object is printed when it is whole")
    openings = list(_openings(prompts))
    if not all(map(_is_text, openings)):
        raise click.BadParameter("an opening is no UTF-8 text", param_hint="'--prompt'")
    run = _finished(run_dir, client)
    if as_json:
        texts = run.generate(openings, **options)
        pairs = zip(openings, texts, strict=True)
        click.echo(json.dumps({"generations": [{"prompt": p, "text": t.removeprefix(p)} for p, t in pairs]}))
        return
    if not (stream or sys.stdout.isatty()):
        for text in run.generate(openings, **options):
            click.echo(readable(text))
        return
    told = _Telling(openings)
    run.generate(openings, on_text=told.piece, **options)
    told.end()


def _openings(prompts: tuple[str, ...]) -> Iterator[str]:
    for prompt in prompts:
        if prompt != "-":
            yield prompt
            continue
        lines = [line.rstrip("\r\n") for line in sys.stdin]
        if not any(lines):
            raise click.BadParameter("standard input holds no opening: give one a line", param_hint="'--prompt'")
        yield from filter(None, lines)


def _is_text(opening: str) -> bool:
    """Whether it has no bytes that were no characters: Python makes surrogates of these."""
    return not any("\ud800" <= c <= "\udfff" for c in opening)


class _Telling:
    """Openings and the pieces of their continuations, as they come: what is printed is the same as without."""

    def __init__(self, openings: list[str]) -> None:
        self._openings, self._begun = openings, 0

    def piece(self, position: int, text: str) -> None:
        self._begin(position + 1)
        click.echo(readable(text), nl=False)

    def end(self) -> None:
        self._begin(len(self._openings))
        click.echo()

    def _begin(self, count: int) -> None:
        """So many openings stand there: also those before, that nothing followed."""
        for opening in self._openings[self._begun : count]:
            if self._begun:
                click.echo()
            click.echo(readable(opening), nl=False)
            self._begun += 1


@click.command()
@click.argument("run_dir", type=click.Path())
@click.option(
    "--data",
    type=path_type,
    metavar="CSV",
    help="Score all rows of this file that pass the run's filters; default: the run's test split.",
)
@click.option("--device", help="cuda, cuda:N, cpu or mps; default: the run's.")
@_client
@json_option
def evaluate(run_dir: str, data: str | None, device: str | None, client: str | None, as_json: bool) -> None:
    """Score the global model of RUN_DIR: eval_loss (nats per token), perplexity, num_examples, num_tokens."""
    result = _finished(run_dir, client).evaluate(data, device)
    if as_json:
        click.echo(json.dumps(result))
        return
    for name, value in result.items():
        click.echo(f"{name:<13} {value:.6g}" if isinstance(value, float) else f"{name:<13} {value}")


@click.command()
@click.argument("run_dir", type=click.Path())
@click.option("--out", required=True, type=path_type, metavar="DIR", help="The folder to write: new, or empty.")
@click.option("--merge", is_flag=True, help="A plain transformers folder with the adapter merged in.")
@_client
def export(run_dir: str, out: str, merge: bool, client: str | None) -> None:
    """Write the global model of RUN_DIR as a PEFT adapter, or merged into its base, with a model card (README.md)."""
    from fedmq.exporting import export_model

    export_model(_finished(run_dir, client), Path(out), merge)
    click.echo(f"wrote {out}")
