"""Charts of one run against its rounds or bytes: loss, perplexity, fairness, bytes, aggregation bias."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from fedmq.report import series
from fedmq.report.drawing import Chart, Table, axes, chart, drawing, name_of
from fedmq.report.numbers import shown, size, unit_of_bytes, wide
from fedmq.report.palette import BLUE, GREEN, MUTED, ORANGE, PURPLE, RED, SERIES
from fedmq.report.series import Found, Losses, Scores, Spread

#: So many clients are drawn as a line each; more become bands.
_MAX_LINES = 12
_MAX_MARKED = 40
_FROM_0 = "round (0 = before training)"
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))


class Line(NamedTuple):
    """One run's figures.

    Attributes:
      label: in the legend.
      xs, ys: same length.
    """

    label: str
    xs: Sequence[float]
    ys: Sequence[float]


def loss_chart(found: Found, baselines: Mapping[str, Found]) -> Chart:
    """Loss by round, with the spread of clients' training losses, and that of baselines."""
    known, training = series.scores(found), series.training_losses(found)
    with drawing("loss"):
        drawn = axes()
        spreads = _draw_clients(drawn, training, "training")
        drawn.plot(known.versions, known.losses, color=BLUE.light, lw=2.2, marker="o", ms=4, label=_scored(known))
        _draw_baselines(drawn, baselines, lambda scores: scores.losses)
        _finish(drawn, "loss (nats per token)", known.losses, _FROM_0)
        rows = [
            [str(v), shown(dict(zip(known.versions, known.losses, strict=True)).get(v)), *_of_spread(spreads.get(v))]
            for v in sorted({*known.versions, *spreads})
        ]
        columns = ["round", _scored(known), *(f"training, {name}" for name in _SPREAD)]
        course = _course(known.versions, known.losses, _scored(known))
        alt = f"Loss by round. {course}{_of_baselines(baselines, 'losses')}"
        return chart("loss", drawn, "Loss", alt, Table(columns, rows), _how_drawn(training))


def perplexity_chart(found: Found, baselines: Mapping[str, Found]) -> Chart:
    """Perplexity by round; where clients were scored, with their spread."""
    known, own = series.scores(found), series.evaluation_losses(found)
    as_perplexity = Losses(True, {v: {c: _exp(x) for c, x in of.items()} for v, of in own.rounds.items()})
    with drawing("perplexity"):
        drawn = axes()
        spreads = _draw_clients(drawn, as_perplexity, "own texts")
        drawn.plot(
            known.versions, known.perplexities, color=ORANGE.light, lw=2.2, marker="o", ms=4, label=_scored(known)
        )
        for index in sorted({0, len(known.versions) - 1}) if known.versions else ():
            if math.isfinite(known.perplexities[index]):
                at = known.versions[index], known.perplexities[index]
                drawn.annotate(f"{at[1]:.4g}", at, (0, 6), textcoords="offset points", ha="center", fontsize=9)
        _draw_baselines(drawn, baselines, lambda scores: scores.perplexities)
        _finish(drawn, "perplexity", known.perplexities, _FROM_0)
        columns = ["round", _scored(known)] + ([f"clients, {name}" for name in _SPREAD] if spreads else [])
        rows = [
            [str(v), shown(p, 2), *(_of_spread(spreads.get(v), 2) if spreads else [])]
            for v, p in zip(known.versions, known.perplexities, strict=True)
        ]
        course = _course(known.versions, known.perplexities, _scored(known))
        alt = f"Perplexity by round. {course}{_of_baselines(baselines, 'perplexities')}"
        return chart("perplexity", drawn, "Perplexity", alt, Table(columns, rows), _how_drawn(as_perplexity))


def fairness_chart(found: Found) -> Chart | None:
    """Best, worst, median and 10th percentile of clients by round; None where no client's loss is known."""
    losses = series.client_losses(found)
    spreads = {v: known for v, of in losses.rounds.items() if (known := series.spread(of)) is not None}
    if not spreads:
        return None
    with drawing("fairness"):
        drawn = axes()
        for (name, of), colour, dashes in zip(_SPREAD.items(), (GREEN, BLUE, ORANGE, RED), _DASHES, strict=True):
            values = [of(spreads[v]) for v in spreads]
            drawn.plot(list(spreads), values, color=colour.light, lw=1.9, ls=dashes, marker="o", ms=3.5, label=name)
        what = "loss on own held-out texts" if losses.evaluated else "training loss"
        _finish(drawn, f"{what}\n(nats per token)", [])
        last = max(spreads)
        alt = f"Spread over clients by round. In round {last}, over {spreads[last].clients} clients: " + ", ".join(
            f"{name} {shown(of(spreads[last]))}" for name, of in _SPREAD.items()
        )
        rows = [[str(v), *_of_spread(spreads[v]), str(spreads[v].clients)] for v in spreads]
        note = (
            "From each client's evaluation on its own held-out texts."
            if losses.evaluated
            else "No client was evaluated on texts of its own, so these are training losses, of the clients of each "
            "round: as the clients change, so does what is compared."
        )
        note += " 10th percentile: a tenth of the clients do worse."
        return chart(
            "fairness", drawn, "Fairness across clients", alt, Table(["round", *_SPREAD, "clients"], rows), note
        )


def bytes_chart(found: Found) -> Chart | None:
    """Loss against what had crossed the wire; None where nothing did, or nothing was scored."""
    known, both, up = (
        series.scores(found),
        series.cumulative(found, "bytes_up", "bytes_down"),
        series.cumulative(found, "bytes_up"),
    )
    points = [(both[v], up[v], loss, v) for v, loss in zip(known.versions, known.losses, strict=True) if v in both]
    if not points or not both[max(both)]:
        return None
    with drawing("bytes"):
        drawn = axes()
        step, unit = unit_of_bytes(both[max(both)])
        for label, values, colour, dashes in (
            ("up and down", [p[0] for p in points], PURPLE, _DASHES[0]),
            ("up alone", [p[1] for p in points], GREEN, _DASHES[1]),
        ):
            xs, ys = [value / step for value in values], [p[2] for p in points]
            drawn.plot(xs, ys, color=colour.light, lw=2, ls=dashes, marker="o", ms=4, label=label)
        _finish(drawn, "loss (nats per token)", [p[2] for p in points], f"on the wire so far ({unit})", whole=False)
        rows = [[str(v), size(all_), size(sent), shown(loss)] for all_, sent, loss, v in points]
        alt = f"Loss against bytes on the wire: {shown(points[-1][2])} after {size(points[-1][0])} up and down"
        columns = ["round", "up and down so far", "up so far", _scored(known)]
        return chart("bytes", drawn, "Bytes against loss", alt, Table(columns, rows))


def bias_chart(found: Found) -> Chart | None:
    """Aggregation bias by round; None where it was not measured."""
    rows = [(row["round"], row["aggregation_bias"]) for row in found["rounds"] if row["aggregation_bias"] is not None]
    if not rows:
        return None
    with drawing("bias"):
        drawn = axes()
        drawn.plot(*zip(*rows, strict=True), color=PURPLE.light, lw=2, marker="o", ms=4)
        _finish(drawn, "aggregation bias", [])
        drawn.set_ylim(bottom=0)
        note = (
            "What averaging the LoRA factors A and B apart loses of the clients' mean update, as a share of it: "
            "|mean(BA) - mean(B) mean(A)| / |mean(BA)|. 0 = nothing."
        )
        alt = f"Aggregation bias by round: {shown(rows[0][1], 3)} in round {rows[0][0]}, "
        alt += f"{shown(rows[-1][1], 3)} in round {rows[-1][0]}"
        table = Table(["round", "bias"], [[str(v), shown(bias)] for v, bias in rows])
        return chart("bias", drawn, "Aggregation bias", alt, table, note)


def compared(
    name: str, title: str, lines: Sequence[Line], ylabel: str, xlabel: str = "round", whole: bool = True
) -> Chart | None:
    """The same figure of several runs in one plot; None where no run has it."""
    lines = [line for line in lines if len(line.xs)]
    if not lines:
        return None
    with drawing(name):
        drawn = axes()
        for index, line in enumerate(lines):
            colour, dashes = SERIES[index % len(SERIES)], _DASHES[index // len(SERIES) % len(_DASHES)]
            drawn.plot(
                line.xs, line.ys, color=colour.light, ls=dashes, lw=2, marker="o", ms=3.5, label=name_of(line.label, 40)
            )
        _finish(drawn, ylabel, [y for line in lines for y in line.ys], xlabel, whole)
        rows = [[line.label, f"{x:g}", shown(y)] for line in lines for x, y in zip(line.xs, line.ys, strict=True)]
        last = "; ".join(f"{line.label} {shown(line.ys[-1])}" for line in lines)
        return chart(
            name,
            drawn,
            title,
            f"{title} of {len(lines)} runs. At the end: {last}",
            Table(["run", xlabel, ylabel], rows),
        )


_SPREAD: Mapping[str, Any] = {
    "best": lambda of: of.best,
    "median": lambda of: of.median,
    "10th percentile": lambda of: of.tenth,
    "worst": lambda of: of.worst,
}


def _of_spread(of: Spread | None, digits: int = 4) -> list[str]:
    return ["–"] * len(_SPREAD) if of is None else [shown(take(of), digits) for take in _SPREAD.values()]


def _draw_clients(drawn: Any, losses: Losses, what: str) -> dict[int, Spread]:
    spreads = {v: known for v, of in losses.rounds.items() if (known := series.spread(of)) is not None}
    clients = sorted({client for of in losses.rounds.values() for client in of})
    if not spreads:
        return {}
    if len(clients) <= _MAX_LINES:
        label: str | None = f"{what}, each of {len(clients)} clients"
        for client in clients:
            points = [(v, of[client]) for v, of in losses.rounds.items() if client in of]
            drawn.plot(*zip(*points, strict=True), color=MUTED.light, alpha=0.6, lw=0.9, marker=".", ms=3, label=label)
            label = None
        return spreads
    rounds = list(spreads)
    ends = [spreads[v].best for v in rounds], [spreads[v].worst for v in rounds]
    drawn.fill_between(
        rounds, *ends, color=MUTED.light, alpha=0.18, lw=0, label=f"{what}, best to worst of {len(clients)}"
    )
    ends = [spreads[v].median for v in rounds], [spreads[v].tenth for v in rounds]
    drawn.fill_between(rounds, *ends, color=MUTED.light, alpha=0.3, lw=0, label=f"{what}, median to 10th percentile")
    drawn.plot(rounds, ends[0], color=MUTED.light, lw=1.2, label=f"{what}, median")
    return spreads


def _how_drawn(losses: Losses) -> str:
    clients = {client for of in losses.rounds.values() for client in of}
    return "" if len(clients) <= _MAX_LINES else "Each client's last figures are in the table of clients below."


def _draw_baselines(drawn: Any, baselines: Mapping[str, Found], take: Any) -> None:
    for (kind, found), colour in zip(sorted(baselines.items()), (GREEN, RED, PURPLE), strict=False):
        known = series.scores(found)
        if len(known.versions) == 1:
            drawn.axhline(take(known)[0], color=colour.light, lw=1.5, ls=_DASHES[2], label=f"baseline {name_of(kind)}")
        elif known.versions:
            ys = take(known)
            drawn.plot(
                known.versions,
                ys,
                color=colour.light,
                lw=1.7,
                ls=_DASHES[1],
                marker="s",
                ms=3,
                label=f"baseline {name_of(kind)}",
            )


def _of_baselines(baselines: Mapping[str, Found], of: str) -> str:
    last = [(kind, getattr(series.scores(found), of)[-1:]) for kind, found in sorted(baselines.items())]
    return "".join(f"; baseline {kind} {shown(value[0])}" for kind, value in last if value)


def _finish(drawn: Any, ylabel: str, ys: Iterable[float], xlabel: str = "round", whole: bool = True) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    drawn.set_xlabel(xlabel)
    drawn.set_ylabel(ylabel)
    if whole:
        drawn.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    drawn.margins(x=0.05, y=0.12)
    if any(len(line.get_xdata()) > _MAX_MARKED for line in drawn.lines):
        for line in drawn.lines:
            line.set_marker("")
    if wide(values := list(ys)):
        drawn.set_yscale("log")
        known = [y for y in values if math.isfinite(y)]
        # Of many decades it would label none.
        drawn.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(known) / min(known) < 1e4 else (1,)))
        drawn.yaxis.set_minor_formatter(NullFormatter())
        drawn.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if drawn.get_legend_handles_labels()[0]:
        drawn.legend(loc="best")


def _scored(known: Scores) -> str:
    return "clients' own held-out texts" if known.by_client else "test split"


def _course(versions: Sequence[int], values: Sequence[float], what: str) -> str:
    if not versions:
        return "Nothing is scored yet"
    return f"On the {what}: {shown(values[0])} in round {versions[0]}, {shown(values[-1])} in round {versions[-1]}"


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.nan
