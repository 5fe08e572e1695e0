"""Several runs in one: a table of what came of each, of what they were set to otherwise, and their curves together."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fedmq.protocol.printable import escaped
from fedmq.report import series
from fedmq.report.curves import Line, compared
from fedmq.report.drawing import Chart, Table
from fedmq.report.numbers import duration, shown, size, unit_of_bytes
from fedmq.report.series import Found

#: Where a run is and what it is called is no setting of its method.
_PLACES = ("output_dir", "log_dir", "experiment_name")


class ComparisonPage(NamedTuple):
    """Several runs.

    Attributes:
      title: of the page.
      results: a row for each run.
      settings: a row for each setting that is not the same in all, a column for each run.
      charts: those that there are figures for.
      damage: what could not be read, a line each.
    """

    title: str
    results: Table
    settings: Table
    charts: Sequence[Chart]
    damage: Sequence[str]


def comparison_page(runs: Sequence[Found]) -> ComparisonPage:
    """The page of two runs or more; what is said "of the first" is of the first one given."""
    names = labels(runs)
    return ComparisonPage(
        f"{len(runs)} runs compared",
        _results(names, runs),
        _settings(names, [found["provenance"]["config"] for found in runs]),
        [chart for chart in _charts(names, runs) if chart is not None],
        [
            f"{name}: {escaped(line)}"
            for name, found in zip(names, runs, strict=True)
            for line in found.get("damage", [])
        ],
    )


def labels(runs: Sequence[Found]) -> list[str]:
    """What each run is called: its folder's name, or the whole path where others have the same.

    Example:
      >>> labels([{"run_dir": "a/x"}, {"run_dir": "b/y"}]), labels([{"run_dir": "a/x"}, {"run_dir": "b/x"}])
      (['x', 'y'], ['a/x', 'b/x'])
    """
    paths = [escaped(found["run_dir"]) for found in runs]
    short = [path.rstrip("/").rpartition("/")[2] or path for path in paths]
    return short if len({*short}) == len(short) else paths


def _results(names: Sequence[str], runs: Sequence[Found]) -> Table:
    target = _last_loss(runs[0])
    of_first = "the first" if target is None else f"loss {shown(target)}"
    rows = []
    for name, found in zip(names, runs, strict=True):
        known = series.scores(found)
        there = None if target is None else series.reached(found, target)
        biases = [row["aggregation_bias"] for row in found["rounds"] if row["aggregation_bias"] is not None]
        rows.append(
            [
                name,
                found["status"],
                f"{found['committed'] if found['committed'] is not None else '–'} of {found['num_rounds']}",
                shown(_last_loss(found)),
                shown(known.perplexities[-1] if known.versions else None, 2),
                "not reached" if there is None else str(there[0]),
                "not reached" if there is None else size(there[1]),
                size(found["bytes_up"]),
                size(found["bytes_down"]),
                shown(biases[-1] if biases else None),
                duration(sum(row["seconds"] for row in found["rounds"])),
            ]
        )
    columns = ["run", "status", "rounds", "loss", "perplexity", f"rounds to {of_first}", f"bytes to {of_first}"]
    return Table([*columns, "up", "down", "last bias", "time in rounds"], rows)


def _last_loss(found: Found) -> float | None:
    known = series.scores(found)
    return known.losses[-1] if known.versions else None


def _settings(names: Sequence[str], configs: Sequence[Mapping[str, Any]]) -> Table:
    flat = [dict(_flat(config)) for config in configs]
    keys = list(dict.fromkeys(key for settings in flat for key in settings if key not in _PLACES))
    rows = [[key, *(settings.get(key, "–") for settings in flat)] for key in keys]
    return Table(["setting", *names], [row for row in rows if len({*row[1:]}) > 1])


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield escaped(f"{prefix}{key}"), escaped(value if isinstance(value, str) else json.dumps(value))


def _charts(names: Sequence[str], runs: Sequence[Found]) -> Iterator[Chart | None]:
    known = [series.scores(found) for found in runs]
    losses, perplexities = "loss (nats per token)", "perplexity"
    by_round = [Line(name, of.versions, of.losses) for name, of in zip(names, known, strict=True)]
    yield compared("loss", "Loss", by_round, losses)
    by_round = [Line(name, of.versions, of.perplexities) for name, of in zip(names, known, strict=True)]
    yield compared("perplexity", "Perplexity", by_round, perplexities)
    sent = [series.cumulative(found, "bytes_up", "bytes_down") for found in runs]
    step, unit = unit_of_bytes(max(max(of.values()) for of in sent))
    by_bytes = []
    for name, of, nbytes in zip(names, known, sent, strict=True):
        points = [(nbytes[v] / step, loss) for v, loss in zip(of.versions, of.losses, strict=True) if v in nbytes]
        by_bytes.append(Line(name, [x for x, _ in points], [y for _, y in points]))
    yield compared(
        "bytes", "Bytes against loss", by_bytes, losses, f"on the wire so far, up and down ({unit})", whole=False
    )
    worst = [Line(name, *_worst_tenth(found)) for name, found in zip(names, runs, strict=True)]
    own = {series.client_losses(found).evaluated for found in runs if series.client_losses(found).rounds}
    what = {frozenset({True}): "own held-out loss", frozenset({False}): "training loss"}.get(frozenset(own), "loss")
    yield compared("fairness", f"10th percentile of clients' {what}", worst, f"{what} (nats per token)")
    biases = [
        [(row["round"], row["aggregation_bias"]) for row in found["rounds"] if row["aggregation_bias"] is not None]
        for found in runs
    ]
    lines = [Line(name, [v for v, _ in of], [bias for _, bias in of]) for name, of in zip(names, biases, strict=True)]
    yield compared("bias", "Aggregation bias", lines, "aggregation bias")


def _worst_tenth(found: Found) -> tuple[list[int], list[float]]:
    spreads = {v: series.spread(of) for v, of in series.client_losses(found).rounds.items()}
    points = [(v, of.tenth) for v, of in spreads.items() if of is not None]
    return [v for v, _ in points], [tenth for _, tenth in points]
