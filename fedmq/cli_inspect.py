"""`fedmq inspect`: a run from another shell, once or as it goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from fedmq.cli_config import json_option
from fedmq.loading import loading

#: from look to look; and the share of a core that all looks together may take from the run
_EVERY_S, _SHARE = 1.0, 0.02


@click.command()
@click.argument("run_dir", type=click.Path())
@click.option(
    "--watch", is_flag=True, help="Go on until the run ends, looking once a second, at very large runs less often."
)
@json_option
def inspect(run_dir: str, watch: bool, as_json: bool) -> None:
    """Show a running or finished run.

    With --watch a terminal gets a picture that changes, and a pipe a line for each version that is scored; with --json
    as well, an object in a line whenever something has changed. Ctrl-C ends the watching, not the run.
    """
    with loading():
        from fedmq.inspection import inspect_run, inspection_lines

    found = inspect_run(Path(run_dir), spans=as_json)
    if watch:
        looks = _looks(Path(run_dir), found)
        found = _objects(looks) if as_json else _picture(looks)
    if as_json and not watch:
        click.echo(json.dumps(found))
    if as_json:
        return
    click.echo("\n".join(inspection_lines(found)))


def _looks(run_dir: Path, found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The run from time to time, until it has ended."""
    from fedmq.inspection import inspect_run

    yield found
    look_s = 0.0
    while found["status"] == "running":
        time.sleep(_pause_s(look_s))
        began = time.process_time()
        found = inspect_run(run_dir, spans="timeline" in found)
        look_s = time.process_time() - began
        yield found


def _pause_s(look_s: float) -> float:
    """Seconds to the next look after one that took this much of a core.

    Example:
      >>> _pause_s(0.004), _pause_s(0.5)
      (1.0, 25.0)
    """
    return max(_EVERY_S, look_s / _SHARE)


def _objects(looks: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """Each look that shows something else than the one before, as JSON; returns the last."""
    said = ""
    for found in looks:
        live = {name: value for name, value in (found["live"] or {}).items() if name != "at"}
        if (text := json.dumps(found | {"live": live})) != said:
            click.echo(json.dumps(found))
            said = text
    return found


def _picture(looks: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """Draw each look in the place of the last, or say what is new in it; returns the last."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from fedmq.runtime.live_view import Shown, drawn, redrawn
    from fedmq.storage.metrics import readable_perplexity

    console, said = Console(), -1
    if not redrawn(console):
        for found in looks:
            for version, score in found["scores"].items():
                if int(version) > said:
                    said = int(version)
                    line = (
                        f"round {version}/{found['num_rounds']}  perplexity {readable_perplexity(score['perplexity'])}"
                    )
                    click.echo(f"{line}  loss {score['eval_loss']:.4f}")
        return found
    with Live(Text("no process is at work on it yet"), console=console, transient=True, auto_refresh=False) as live:
        for found in looks:
            if found["live"]:
                perplexities = [score["perplexity"] for score in found["scores"].values()]
                nbytes, seconds = (found["bytes_up"], found["bytes_down"]), [row["seconds"] for row in found["rounds"]]
                live.update(drawn(Shown(found["live"], perplexities, nbytes, seconds), console), refresh=True)
    return found
