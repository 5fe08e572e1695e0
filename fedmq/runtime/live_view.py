"""A run as a person sees it in a terminal, while it goes on: `fedmq run` draws it, `fedmq inspect --watch` too."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedmq.protocol.jobs import Job, in_words
from fedmq.storage.metrics import readable_perplexity, readable_size

_BLOCKS = "▁▂▃▄▅▆▇█"
#: without these in the terminal's alphabet
_PLAIN = "_.-~=+*#"
#: the newest so many values are drawn; more lines of a kind than this are summed up
_SPARKS, _SHOWN = 24, 8
#: what the next round takes follows from this many
_ROUNDS = 20
#: width of a worker's bar, and of the terminals that have one
_BAR, _ROOMY = 16, 72


class Shown(NamedTuple):
    """What is drawn.

    Attributes:
      live: as `fedmq.runtime.view.live_status` has it.
      perplexities: of the versions that were scored, oldest first.
      nbytes: up and down so far.
      round_seconds: of the committed rounds.
    """

    live: Mapping[str, Any]
    perplexities: Sequence[float]
    nbytes: tuple[int, int]
    round_seconds: Sequence[float]


def redrawn(console: Console) -> bool:
    """Whether somebody sees a picture there that changes: no pipe, also with FORCE_COLOR; no CI; no TERM=dumb."""
    return console.is_interactive and console.file.isatty() and not os.environ.get("CI")


def drawn(shown: Shown, console: Console) -> RenderableType:
    """The run in a line or two, a line for each worker, and one for each thing that is awaited."""
    workers = shown.live["workers"]
    rows = [_worker(worker) for worker in workers[:_SHOWN]]
    roomy = console.width >= _ROOMY
    widest = [max(map(len, column)) + 1 for column in zip(*((row[0], row[3], row[4]) for row in rows), strict=True)]
    taken = sum(widest) + (_BAR + 1 if roomy else 0)
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, overflow="ellipsis")
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=max(6, console.width - taken))
    if roomy:
        table.add_column(width=_BAR)
    for _ in range(2):
        table.add_column(no_wrap=True, justify="right")
    for name, what, done, steps, rate in rows:
        bar = ProgressBar(total=1.0, completed=done, width=_BAR) if done is not None else ""
        table.add_row(Text(name), Text(what), *([bar] if roomy else []), steps, rate)
    blocks = _BLOCKS if (console.encoding or "").lower().startswith("utf") else _PLAIN
    waiting = [f"waiting for {line}" for line in shown.live["awaited"]]
    below = [*_more(workers, "workers"), *waiting[:_SHOWN], *_more(waiting, "to wait for")]
    above = _filled(headline(shown, blocks), console.width)
    return Group(*above, table, *(Text(line, no_wrap=True, overflow="ellipsis") for line in below))


def headline(shown: Shown, blocks: str = _BLOCKS) -> Iterator[str]:
    """Where the run is, in parts: round, phase, perplexity, bytes, time left.

    Example:
      >>> live = {"round": 3, "num_rounds": 4, "phase": "training", "round_s": 1.0}
      >>> "  ".join(headline(Shown(live, [90.0, 30.0, 10.0], (2_000_000, 1_000_000), [2.0, 4.0])))
      'round 3/4  training  perplexity 10.00 █▄▁  up 2.00 MB  down 1.00 MB  about 5 s left'
    """
    live = shown.live
    yield f"round {live['round']}/{live['num_rounds']}"
    yield str(live["phase"])
    if shown.perplexities:
        yield f"perplexity {readable_perplexity(shown.perplexities[-1])} {sparkline(shown.perplexities, blocks)}"
    up, down = map(readable_size, shown.nbytes)
    yield f"up {up}"
    yield f"down {down}"
    if (left := time_left(live, shown.round_seconds)) is not None:
        yield left


def time_left(live: Mapping[str, Any], round_seconds: Sequence[float]) -> str | None:
    """As the rounds so far have taken; None before the first, and after the last.

    Example:
      >>> time_left({"num_rounds": 4, "round_s": 1.0}, [2.0, 4.0])
      'about 5 s left'
    """
    if not 0 < (done := len(round_seconds)) < live["num_rounds"]:
        return None
    # The median: a round in which no coordinator was there, for a night, says nothing of the next.
    usual = median(round_seconds[-_ROUNDS:])
    left_s = usual * (live["num_rounds"] - done - 1) + max(0.0, usual - live["round_s"])
    return f"about {duration(left_s)} left"


def worker_line(worker: Mapping[str, Any]) -> str:
    """What a worker does, where there is no room for a bar.

    Example:
      >>> worker = {"worker": "w0", "jobs": ["train/1/a"], "suspect": False, "step": 1, "total_steps": 4}
      >>> worker_line(worker | {"tokens_per_s": 1234.5})
      'w0: train a, step 1/4, 1,234 tokens/s'
    """
    name, what, _, steps, rate = _worker(worker)
    return ", ".join(filter(None, [f"{name}: {what}", steps and f"step {steps}", rate]))


def sparkline(values: Sequence[float], blocks: str = _BLOCKS) -> str:
    """The newest values as a row of blocks, lowest to highest, by their logarithm.

    Example:
      >>> sparkline([1000.0, 100.0, 10.0]), sparkline([5.0, 5.0])
      ('█▄▁', '▁▁')
    """
    heights = [math.log(max(value, 1e-300)) for value in values[-_SPARKS:]]
    least, span = min(heights), max(heights) - min(heights)
    top = len(blocks) - 1
    return "".join(blocks[int((height - least) / span * top) if span > 0 else 0] for height in heights)


def duration(seconds: float) -> str:
    """Seconds for people.

    Example:
      >>> [duration(seconds) for seconds in (5.4, 125, 7300)]
      ['5 s', '2 min 5 s', '2 h 1 min']
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def _worker(worker: Mapping[str, Any]) -> tuple[str, str, float | None, str, str]:
    """Its name, what it does, how much of that is done, in steps, and how fast."""
    jobs = [job.split("/", 2) for job in worker["jobs"]]
    what = in_words([Job(kind, int(round), unit) for kind, round, unit in jobs]) if jobs else "idle"
    if worker["suspect"]:
        what = f"silent; {what}"
    step, total, rate = worker["step"], worker["total_steps"], worker["tokens_per_s"]
    if not jobs or not total:
        return worker["worker"], what, None, "", ""
    return worker["worker"], what, step / total, f"{step}/{total}", "" if rate is None else f"{rate:,.0f} tokens/s"


def _filled(parts: Iterable[str], width: int) -> list[Text]:
    """As few lines as have room for the parts, none of which is broken."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 2 + len(part) <= width:
            lines[-1] += f"  {part}"
        else:
            lines.append(part)
    return [Text(line, no_wrap=True, overflow="ellipsis") for line in lines]


def _more(lines: Sequence[object], what: str) -> list[str]:
    return [f"... and {len(lines) - _SHOWN} more {what}"] if len(lines) > _SHOWN else []
