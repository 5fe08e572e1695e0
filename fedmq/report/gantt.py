"""The timeline of a run: its rounds and tasks as bars, or as counts where there are too many for bars."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fedmq.report.drawing import Chart, Table, axes, chart, drawing, name_of
from fedmq.report.numbers import duration, unit_of_seconds
from fedmq.report.palette import BLUE, GREEN, MUTED, ORANGE, PURPLE, WAITING, Colour

Span = Mapping[str, Any]
#: In the order in which they are drawn: what is drawn later is on top.
_KINDS: Mapping[str, tuple[str, Colour]] = {
    "wait": ("waiting for a worker", WAITING),
    "train": ("training", BLUE),
    "transfer": ("transfer", ORANGE),
    "evaluate": ("evaluation", PURPLE),
    "aggregate": ("aggregation", GREEN),
}
#: More rows than these cannot be told apart.
_MAX_ROWS = 24
_MAX_LABELLED_ROUNDS = 12
#: Bars nearer to each other than this share of the whole are one; no screen shows the gap.
_GAP = 1 / 1500
_BINS = 600
#: Of the whole page, where the other charts have half of it each; inches.
_WIDTH = 13.5


def timeline_chart(timeline: Sequence[Span]) -> Chart | None:
    """Who did what when.

    Args:
      timeline: {kind, round, who, worker, start, end} each, seconds; who and worker are "" where nobody is.

    Returns:
      A row for each client, or for each worker where clients are many, or counts where workers are, too. None where
      nothing is known of times.
    """
    spans = [span for span in timeline if span["kind"] in _KINDS]
    if not spans:
        return None
    begin, end = min(span["start"] for span in spans), max(span["end"] for span in spans)
    step, unit = unit_of_seconds(end - begin)
    by_client, by_worker = _rows(spans, _client), _rows(spans, _worker)
    rows = next((rows for rows in (by_client, by_worker) if len(rows) <= _MAX_ROWS), None)
    with drawing("timeline"):
        if rows is None:
            drawn = axes(4.4, _WIDTH)
            _draw_counts(drawn, spans, begin, end, step)
            drawn.set_ylabel("tasks under way")
            how = "as counts of tasks under way: clients and workers are too many for a row each"
        else:
            drawn = axes(1.5 + 0.27 * len(rows), _WIDTH)
            _draw_bars(drawn, rows, begin, (end - begin) * _GAP, step)
            how = "a row for each client" if rows is by_client else "a row for each worker"
        starts = _round_starts(spans)
        _draw_rounds(drawn, starts, begin, step)
        drawn.set_xlabel(f"{unit} since the first task")
        drawn.set_xlim(0, max((end - begin) / step, 1e-9))
        handles, labels = drawn.get_legend_handles_labels()
        drawn.figure.legend(handles, labels, loc="outside upper left", ncols=len(labels))
        alt = f"Timeline of {len(starts)} rounds over {duration(end - begin)}, {how}. In all: {_totals(spans)}"
        note = "By the coordinator's clock. What a worker trains together lies over each other."
        return chart("timeline", drawn, "Timeline", alt, _table(spans), note)


def _client(span: Span) -> str:
    if span["kind"] == "aggregate":
        return "aggregation"
    return "test split" if span["kind"] == "evaluate" and span["who"] == "test" else str(span["who"])


def _worker(span: Span) -> str:
    return "aggregation" if span["kind"] == "aggregate" else str(span["worker"]) or "no worker yet"


def _rows(spans: Sequence[Span], row_of: Callable[[Span], str]) -> dict[str, list[Span]]:
    rows = defaultdict(list)
    for span in spans:
        rows[row_of(span)].append(span)
    return dict(sorted(rows.items(), key=lambda row: (row[0] in ("test split", "aggregation"), _natural(row[0]))))


def _natural(name: str) -> tuple[str, int, str]:
    """client_2 before client_10."""
    head = name.rstrip("0123456789")
    return head, int(name[len(head) :] or 0), name


def _draw_bars(drawn: Any, rows: Mapping[str, Sequence[Span]], begin: float, gap: float, step: float) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    for kind, (label, colour) in _KINDS.items():
        bars = [
            ((start - begin) / step, (end - begin) / step, place)
            for place, of in enumerate(rows.values())
            for start, end in _merged([(s["start"], s["end"]) for s in of if s["kind"] == kind], gap)
        ]
        if not bars:
            continue
        corners = [((a, y - 0.38), (a, y + 0.38), (b, y + 0.38), (b, y - 0.38), (a, y - 0.38)) for a, b, y in bars]
        codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * len(bars)
        # One path for all bars of a kind: a tenth of the bytes of a path each. The edge keeps short ones visible.
        path = Path([corner for bar in corners for corner in bar], codes)
        drawn.add_patch(PathPatch(path, facecolor=colour.light, edgecolor=colour.light, lw=0.5, label=label))
    drawn.set_yticks(range(len(rows)), [name_of(name, 24) for name in rows])
    drawn.set_ylim(len(rows) - 0.4, -0.6)
    drawn.tick_params(axis="y", length=0)
    drawn.grid(visible=False, axis="y")


def _merged(bars: Sequence[tuple[float, float]], gap: float) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for start, end in sorted(bars):
        if merged and start - merged[-1][1] <= gap:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _draw_counts(drawn: Any, spans: Sequence[Span], begin: float, end: float, step: float) -> None:
    edges = np.linspace(begin, end, _BINS + 1)
    middle, width = (edges[1:] + edges[:-1]) / 2, max(edges[1] - edges[0], 1e-12)
    layers, labels, colours = [], [], []
    for kind, (label, colour) in sorted(_KINDS.items(), key=lambda item: item[0] == "wait"):
        starts, ends = (np.array([span[at] for span in spans if span["kind"] == kind]) for at in ("start", "end"))
        if not starts.size:
            continue
        # The mean number under way in each bin: the seconds of all spans that fall into it, over its width.
        before = [np.clip(edges[:, None] - at[None, :], 0, None).sum(1) for at in (starts, ends)]
        layers.append(np.diff(before[0] - before[1]) / width)
        labels.append(label)
        colours.append(colour.light)
    drawn.stackplot((middle - begin) / step, layers, labels=labels, colors=colours, lw=0)
    drawn.set_ylim(bottom=0)


def _round_starts(spans: Sequence[Span]) -> dict[int, float]:
    starts: dict[int, float] = {}
    for span in spans:
        if span["kind"] in ("wait", "train"):
            starts[span["round"]] = min(span["start"], starts.get(span["round"], span["start"]))
    return dict(sorted(starts.items()))


def _draw_rounds(drawn: Any, starts: Mapping[int, float], begin: float, step: float) -> None:
    every = -(-len(starts) // _MAX_LABELLED_ROUNDS) if starts else 1
    for index, (round, start) in enumerate(starts.items()):
        if index % every == 0:
            x = (start - begin) / step
            drawn.axvline(x, color=MUTED.light, lw=0.8, ls=(0, (3, 3)), zorder=0.5)
            drawn.annotate(
                f"round {round}" if every == 1 and len(starts) < 9 else str(round),
                (x, 1),
                (2, 2),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                fontsize=8,
                color=MUTED.light,
            )


def _seconds(spans: Sequence[Span]) -> dict[str, float]:
    seconds = dict.fromkeys(_KINDS, 0.0)
    for span in spans:
        seconds[span["kind"]] += span["end"] - span["start"]
    return seconds


def _totals(spans: Sequence[Span]) -> str:
    return ", ".join(f"{_KINDS[kind][0]} {duration(seconds)}" for kind, seconds in _seconds(spans).items() if seconds)


def _table(spans: Sequence[Span]) -> Table:
    rounds: dict[int, list[Span]] = defaultdict(list)
    for span in spans:
        rounds[span["round"]].append(span)
    columns = ["round", *(f"{label}, of all tasks" for label, _ in _KINDS.values())]
    rows = [[str(v), *map(duration, _seconds(of).values())] for v, of in sorted(rounds.items())]
    return Table(columns, rows)
