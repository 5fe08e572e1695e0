"""What the page of one run says, in the order in which it says it: text and tables, without HTML."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fedmq.protocol.printable import escaped, readable
from fedmq.report import again, series
from fedmq.report.curves import bias_chart, bytes_chart, fairness_chart, loss_chart, perplexity_chart
from fedmq.report.drawing import Chart, Table
from fedmq.report.gantt import timeline_chart
from fedmq.report.numbers import duration, shown, size
from fedmq.report.series import Found


class Texts(NamedTuple):
    """What one version made of a prompt, beside what another did.

    Attributes:
      prompt: the opening.
      first, last: its continuations; first is None where only one version was asked.
    """

    prompt: str
    first: str | None
    last: str


class RunPage(NamedTuple):
    """One run.

    Attributes:
      title: its name.
      facts: what and how much, the most wanted first.
      damage: what could not be read of it, a line each.
      warnings: as noted while it ran.
      charts: those that there are figures for.
      texts: generations, with the versions that made the first and the last.
      versions: those two.
      baselines: a row for each, None where none was run.
      clients: a row for each.
      software: a row for each package, a column for each time the run began or went on with others.
      digests: name and value.
      config: as a file that `fedmq run` takes.
      command: the one that makes the run again.
      caveats: why that may give another model, a sentence each.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    damage: Sequence[str]
    warnings: Sequence[str]
    charts: Sequence[Chart]
    texts: Sequence[Texts]
    versions: tuple[int, int]
    baselines: Table | None
    clients: Table
    software: Table
    digests: Sequence[tuple[str, str]]
    config: str
    command: str
    caveats: Sequence[str]


def run_page(found: Found, baselines: Mapping[str, Found]) -> RunPage:
    """The page of a run.

    Args:
      found: what was read of it.
      baselines: what was read of its baselines, by kind.
    """
    same = {kind: other for kind, other in baselines.items() if other.get("same_settings") is not False}
    charts = [
        loss_chart(found, same),
        perplexity_chart(found, same),
        fairness_chart(found),
        bytes_chart(found),
        bias_chart(found),
        timeline_chart(found.get("timeline", [])),
    ]
    texts, versions = generations(found["generations"])
    return RunPage(
        escaped(found["experiment_name"]),
        list(facts(found)),
        [escaped(line) for line in found.get("damage", [])],
        [escaped(line) for line in found["warnings"]],
        [chart for chart in charts if chart is not None],
        texts,
        versions,
        _baselines(found, baselines) if baselines else None,
        _clients(found),
        _software(found["provenance"]["software"]),
        list(_digests(found)),
        _as_json(found["provenance"]["config"]),
        again.command(found),
        list(again.caveats(found)),
    )


def facts(found: Found) -> Iterator[tuple[str, str]]:
    """The figures of a run."""
    known, rounds = series.scores(found), found["rounds"]
    reason = f" ({escaped(found['reason'])})" if found["reason"] else ""
    yield "status", f"{found['status']}{reason}"
    done = "none" if found["committed"] is None else str(found["committed"])
    yield "rounds", f"{done} of {found['num_rounds']}"
    if known.versions:
        yield "perplexity", _from_to(known.perplexities, 2)
        yield "loss", f"{_from_to(known.losses, 4)} nats per token"
        yield "scored on", "clients' own held-out texts" if known.by_client else "the test split"
    yield "clients", f"{len(found['provenance']['clients']) or len(_last_rows(found))}"
    yield "on the wire", f"up {size(found['bytes_up'])}, down {size(found['bytes_down'])}"
    yield "time in rounds", duration(sum(row["seconds"] for row in rounds))
    if (started := found["provenance"]["started_at"]) is not None:
        yield "begun", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(started))
    yield "folder", escaped(found["run_dir"])


def generations(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Texts], tuple[int, int]]:
    """Continuations by the first version that has any, beside those by the last.

    Example:
      >>> rows = [{"version": v, "position": 0, "prompt": "My", "text": text} for v, text in ((0, " a"), (2, " b"))]
      >>> generations(rows)
      ([Texts(prompt='My', first=' a', last=' b')], (0, 2))
    """
    if not rows:
        return [], (0, 0)
    versions = min(row["version"] for row in rows), max(row["version"] for row in rows)
    first, last = ({row["position"]: row for row in rows if row["version"] == version} for version in versions)
    texts = [
        Texts(
            readable(row["prompt"]),
            readable(first[at]["text"]) if versions[0] != versions[1] and at in first else None,
            readable(row["text"]),
        )
        for at, row in sorted(last.items())
    ]
    return texts, versions


def _as_json(config: Any) -> str:
    """The same object when it is read, and no character in it that turns text round or is not seen."""
    text = json.dumps(config, indent=2, ensure_ascii=False)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def _from_to(values: Sequence[float], digits: int) -> str:
    if len(values) == 1:
        return shown(values[0], digits)
    return f"{shown(values[0], digits)} → {shown(values[-1], digits)}"


def _baselines(found: Found, baselines: Mapping[str, Found]) -> Table:
    rows = [["this run", *_score_cells(found), ""]]
    for kind, other in sorted(baselines.items()):
        if "unreadable" in other:
            rows.append([escaped(kind), "–", "–", "–", escaped(other["unreadable"])])
            continue
        alike = other.get("same_settings") is not False
        remarks = [other["status"]] + ([] if alike else ["of a run with other settings, so not in the charts"])
        rows.append([escaped(kind), *_score_cells(other), escaped("; ".join([*remarks, *other.get("damage", [])]))])
    return Table(["", "rounds", "loss", "perplexity", "remark"], rows)


def _score_cells(found: Found) -> list[str]:
    known = series.scores(found)
    done = f"{found['committed'] if found['committed'] is not None else '–'} of {found['num_rounds']}"
    if not known.versions:
        return [done, "–", "–"]
    return [done, shown(known.losses[-1]), shown(known.perplexities[-1], 2)]


def _last_rows(found: Found) -> dict[str, Mapping[str, Any]]:
    return {client["client_id"]: client for row in found["rounds"] for client in row["client_metrics"]}


def _clients(found: Found) -> Table:
    last, known = _last_rows(found), found["provenance"]["clients"]
    evaluated = series.evaluation_losses(found).rounds
    own = evaluated[max(evaluated)] if evaluated else {}
    taken = [client["client_id"] for row in found["rounds"] for client in row["client_metrics"]]
    columns = ["client", "texts", "rounds taken part in", "last training loss", "own held-out loss", "last worker"]
    rows = []
    for name in sorted({*last, *known, *own}, key=lambda name: (len(name), name)):
        row, size_ = last.get(name), known.get(name, {}).get("num_examples")
        rows.append(
            [
                escaped(name),
                shown(row["train_samples"] if size_ is None and row else size_),
                str(taken.count(name)),
                shown(row["train_loss"] if row else None),
                shown(own.get(name)),
                escaped(row["worker_id"]) if row else "–",
            ]
        )
    return Table(columns, rows)


def _software(entries: Sequence[Mapping[str, str]]) -> Table:
    names = list(dict.fromkeys(name for entry in entries for name in entry))
    columns = ["", "at the start", *(f"resumed with ({i})" for i in range(1, len(entries)))]
    return Table(columns, [[name, *(escaped(entry.get(name, "–")) for entry in entries)] for name in names])


def _digests(found: Found) -> Iterator[tuple[str, str]]:
    known = found["provenance"]
    result = "the result" if found["status"] == "done" else f"round {found['committed']}"
    names = {
        f"adapter ({result})": found["digest"],
        "base model": known["base_digest"],
        "prepared data": known["data_digest"],
    }
    for name, digest in names.items():
        yield name, digest or "not known"
    if known["data_file"]:
        yield "data file", escaped(known["data_file"])
    yield "seed", str(known["seed"])
    yield "run", known["run"] or "not known"
    for client, digest in list(known["client_data_digests"].items()):
        yield f"data of {escaped(client)}", digest
