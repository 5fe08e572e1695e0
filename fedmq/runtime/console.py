"""What a person sees of a run: a live picture on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from fedmq.protocol.phases import Phase
from fedmq.protocol.printable import readable
from fedmq.runtime.live_view import Shown, drawn, redrawn
from fedmq.storage.metrics import coverage, lateness, readable_perplexity, readable_size, total_bytes

log = logging.getLogger("fedmq.console")
#: Rounds with more clients than this are summed up in one line.
_CLIENTS_SHOWN = 10
_AWAITED_AFTER_S = 10.0
_NO_BREAKS = str.maketrans({"\n": "\N{REPLACEMENT CHARACTER}", "\t": "\N{REPLACEMENT CHARACTER}"})


class ConsoleView:
    """Prints to `console`, else to standard output; with `quiet` only warnings."""

    def __init__(self, console: Console | None = None, quiet: bool = False) -> None:
        # In a notebook, rich would make a block of HTML of each line.
        self.console, self.quiet = console or Console(force_jupyter=False), quiet
        self._live: Live | None = None
        if redrawn(self.console) and not quiet:
            self._live = Live(Text(), console=self.console, transient=True, refresh_per_second=4)
        self._shown = Shown({}, [], (0, 0), [])
        self._rows: dict[int, dict[str, Any]] = {}
        self._next_awaited_at: float | None = None
        self._num_rounds = 0

    def __enter__(self) -> ConsoleView:
        if self._live is not None:
            with self._reaching():
                self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            with self._reaching():
                self._live.stop()

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """A terminal that was closed, or an output whose disk is full, ends no run: what follows is for nobody.

        Raises:
          KeyboardInterrupt: whoever read the output has closed it, as `head` does, and wants no more.
        """
        try:
            yield
        except SystemExit:  # how rich tells of a pipe that nobody reads
            raise KeyboardInterrupt("nobody reads the output any more") from None
        except OSError as error:
            log.warning("nobody can read the output any more (%s): the run goes on", error.strerror)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.console.file.fileno())
            os.close(nowhere)

    def say(self, text: str) -> None:
        """A plain line."""
        if not self.quiet:
            self._print(_as_it_is(text))

    def note(self, level: str, text: str) -> None:
        """Something happened."""
        if level == "warning":
            self._print(Text.assemble(("warning:", "yellow"), " ", _as_it_is(text)))
        else:
            self.say(text)

    def _print(self, text: Text) -> None:
        with self._reaching():
            self.console.print(text, soft_wrap=True)

    def progress(self, live: dict[str, Any]) -> None:
        """Draw it; without a terminal, say from time to time who is awaited."""
        self._num_rounds = live["num_rounds"]
        if self._live is None:
            return self._say_awaited(live)
        self._shown = self._shown._replace(live=live)
        self._live.update(drawn(self._shown, self.console))
        return None

    def _say_awaited(self, live: dict[str, Any]) -> None:
        if live["phase"] != Phase.WAITING.value:
            return
        now = live["at"]
        if self._next_awaited_at is None:
            self._next_awaited_at = now + _AWAITED_AFTER_S
        elif now >= self._next_awaited_at:
            self._next_awaited_at = now + _AWAITED_AFTER_S
            for line in live["awaited"]:
                self.say(f"waiting for {line}")

    def resumed(self, rows: Sequence[dict[str, Any]], scores: Mapping[int, dict[str, Any]]) -> None:
        """What an earlier process of the run has done.

        Args:
          rows: of its committed rounds; those that are not scored yet are shown when they are.
          scores: by version.
        """
        self._rows = {row["round"]: row for row in rows if row["round"] not in scores}
        sums, perplexities = total_bytes(rows), [score["perplexity"] for _, score in sorted(scores.items())]
        nbytes, seconds = (sums["bytes_up"], sums["bytes_down"]), [row["seconds"] for row in rows]
        self._shown = self._shown._replace(perplexities=perplexities, nbytes=nbytes, round_seconds=seconds)

    def committed(self, row: dict[str, Any]) -> None:
        """Kept until the round's evaluation is there too."""
        self._rows[row["round"]] = row
        up, down = self._shown.nbytes
        nbytes = (up + row["bytes_up"], down + row["bytes_down"])
        self._shown = self._shown._replace(nbytes=nbytes, round_seconds=[*self._shown.round_seconds, row["seconds"]])

    def scored(self, version: int, score: dict[str, Any] | None) -> None:
        """Show the round that this version came from."""
        line = f"round {version}/{self._num_rounds}  "
        if score is not None:
            self._shown = self._shown._replace(perplexities=[*self._shown.perplexities, score["perplexity"]])
        if score is None:
            line += "not evaluated (a worker needs a test split for that; see also the warnings)"
        else:
            perplexity = readable_perplexity(score["perplexity"])
            line += f"perplexity {perplexity:>8}  loss {score['eval_loss']:.4f}{coverage(score)}"
        row = self._rows.pop(version, None)
        if row is None:
            return self.say(f"{line}  (before training)" if version == 0 else line)
        clients, own = row["client_metrics"], (score or {}).get("clients", {})
        up, down = readable_size(row["bytes_up"]), readable_size(row["bytes_down"])
        self.say(f"{line}  {row['seconds']:.1f} s  up {up}  down {down}")
        for client in clients[:_CLIENTS_SHOWN]:
            self.say(
                f"    {client['client_id']:<12} {client['train_samples']:>6} texts"
                f"  train loss {client['train_loss']:.4f}  {client['train_seconds']:.1f} s on {client['worker_id']}"
                f"{lateness(client['staleness'])}{_own(own.get(client['client_id']))}"
            )
        if len(clients) > _CLIENTS_SHOWN:
            self.say(f"    ... and {len(clients) - _CLIENTS_SHOWN} more clients")
        return None


def _own(score: dict[str, Any] | None) -> str:
    return "" if score is None else f"  held-out perplexity {readable_perplexity(score['perplexity'])}"


def _as_it_is(text: str) -> Text:
    """No markup is looked for, and no control character gets through: a text may be a model's, or a peer's."""
    return Text(readable(text).translate(_NO_BREAKS))


def statistics_lines(statistics: dict[str, Any]) -> Iterator[str]:
    """The split's statistics, for people."""
    splits, test = statistics["splits"], statistics.get("test", {})
    dropped = ", ".join(f"{count} {reason}" for reason, count in statistics["dropped"].items() if count)
    yield f"data: {statistics['rows_read']} rows read, {statistics['rows_kept']} kept" + (
        f" (dropped: {dropped})" if dropped else ""
    )
    rows = ", ".join(f"{name} {splits[name]}" for name in ("train", "val", "test"))
    yield f"      {rows} rows; test {test.get('tokens', 0)} tokens"
    if statistics.get("truncated"):
        yield f"      {statistics['truncated']} texts cut to max_length"
    if statistics.get("label_tv") is not None:
        yield f"      classes of a client and of all rows: total variation {statistics['label_tv']:.3f} on average"
    for client in statistics["clients"][:20]:
        yield (
            f"      {client['client_id']:<12} {client['rows']:>6} rows  {client.get('tokens', 0):>8} tokens"
            f"  {client['authors'] or '?':>5} authors{_whose(client)}"
        )
    if len(statistics["clients"]) > 20:
        yield f"      ... and {len(statistics['clients']) - 20} more clients"


def _whose(client: dict[str, Any]) -> str:
    if client.get("label_tv") is not None:
        return f", total variation {client['label_tv']:.3f}"
    return "".join(f", {kind} {client[kind]}" for kind in ("author", "brand") if client.get(kind))
