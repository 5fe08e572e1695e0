"""What `fedmq inspect` shows: everything a run's journal says, read without disturbing the run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedmq.baselines import baselines_of
from fedmq.protocol.printable import escaped
from fedmq.storage.journal import Journal
from fedmq.storage.metrics import (
    coverage,
    global_metrics,
    lateness,
    readable_perplexity,
    readable_size,
    round_metrics,
    total_bytes,
)
from fedmq.storage.personal import FOLDER, folders
from fedmq.storage.provenance import provenance
from fedmq.storage.run_folder import DATABASE
from fedmq.storage.run_lock import RunLock
from fedmq.storage.salvage import read
from fedmq.storage.timeline import timeline


def inspect_run(run_dir: Path, spans: bool = True) -> dict[str, Any]:
    """A run as one JSON-able object.

    Args:
      run_dir: of the run.
      spans: with its "timeline", which takes as long as all the rest.

    Raises:
      StorageError: the folder holds no run, or its run.db cannot be read.
    """
    found, damage = read(run_dir / DATABASE, lambda journal: _found(run_dir, journal, spans))
    # They are compared with the settings in run.db, which a damaged one may not tell.
    return found | {"baselines": {} if damage else baselines_of(run_dir), "damage": damage}


def _found(run_dir: Path, journal: Journal, spans: bool) -> dict[str, Any]:
    live = json.loads(journal.get("live") or "{}")
    status = status_of(journal, run_dir)
    last, rounds = journal.last_committed(), round_metrics(journal)
    config = json.loads(journal.require("config"))
    return {
        "run_dir": str(run_dir),
        "experiment_name": config["experiment_name"],
        "status": status,
        "reason": journal.get("reason") or "",
        "num_rounds": config["federated"]["num_rounds"],
        "committed": last,
        "digest": None if last is None else journal.digest(last),
        "live": live if status == "running" else None,
        "scores": {str(version): score for version, score in sorted(global_metrics(journal).items())},
        "rounds": rounds,
        **total_bytes(rounds),
        **({"timeline": timeline(journal)} if spans else {}),
        "generations": journal.generations(),
        "own_models": {client: str(path) for client, path in folders(run_dir / FOLDER).items()},
        "provenance": provenance(journal),
        "warnings": [note["text"] for note in journal.notes() if note["level"] == "warning"],
    }


def status_of(journal: Journal, run_dir: Path) -> str:
    """As the run has it; one whose process is gone has not said so."""
    status = journal.get("status") or "unknown"
    return "stopped without notice" if status == "running" and not RunLock.held(run_dir) else status


def inspection_lines(found: dict[str, Any]) -> Iterator[str]:
    """The same for people, without what a terminal would take for a command: a folder may be anybody's."""
    return map(escaped, _lines(found))


def _lines(found: dict[str, Any]) -> Iterator[str]:
    for line in found["damage"]:
        yield f"damaged: {line}"
    done = "none" if found["committed"] is None else found["committed"]
    yield f"{found['experiment_name']} in {found['run_dir']}: {found['status']}" + (
        f" ({found['reason']})" if found["reason"] else ""
    )
    yield f"last committed round: {done} of {found['num_rounds']}"
    if found["status"] == "running" and not found["live"]:
        yield "now: preparing"
    elif found["live"]:
        # It loads rich, which nobody needs for a run that is over.
        from fedmq.runtime.live_view import time_left, worker_line

        live, left = found["live"], time_left(found["live"], [row["seconds"] for row in found["rounds"]])
        yield f"now: {live['phase']}, round {live['round']}" + (f", {left}" if left else "")
        for worker in live["workers"]:
            yield f"  {worker_line(worker)}"
        for line in live["awaited"]:
            yield f"  waiting for {line}"
    for version, score in found["scores"].items():
        mean = f"perplexity {readable_perplexity(score['perplexity']):>10}  loss {score['eval_loss']:.4f}"
        yield f"round {version:>3}  {mean}{coverage(score)}"
    for version, score in list(found["scores"].items())[-1:]:
        for client, own in score.get("clients", {}).items():
            score_of = f"perplexity {readable_perplexity(own['perplexity']):>10}  loss {own['eval_loss']:.4f}"
            yield f"  round {version:>3}  {client:<14} {score_of}"
    for row in found["rounds"]:
        up, down = readable_size(row["bytes_up"]), readable_size(row["bytes_down"])
        yield f"  round {row['round']:>3}  {len(row['client_metrics'])} clients  up {up}  down {down}"
        if row["aggregation_bias"] is not None:
            yield f"  round {row['round']:>3}  aggregation bias {row['aggregation_bias']:.3f}"
        for client in row["client_metrics"]:
            sent = f"up {readable_size(client['bytes_up'])}  down {readable_size(client['bytes_down'])}"
            yield (
                f"  round {row['round']:>3}  {client['client_id']:<14} {client['train_samples']:>6} texts  train loss "
                f"{client['train_loss']:.4f}  {client['train_seconds']:7.1f} s  norm {client['update_norm']:.3g}  "
                f"{sent}  {client['worker_id']}{lateness(client['staleness'])}"
            )
    if found["rounds"]:
        yield f"in all  up {readable_size(found['bytes_up'])}  down {readable_size(found['bytes_down'])}"
    for kind, baseline in found["baselines"].items():
        yield f"baseline {kind}: {_baseline(baseline)}"
    for warning in found["warnings"][-10:]:
        yield f"warning: {warning}"
    for client, path in found["own_models"].items():
        yield f"{client}'s own model is in {path}"
    if found["digest"]:
        yield f"adapter SHA-256 {found['digest']}"


def _baseline(found: dict[str, Any]) -> str:
    if "reason" in found:
        return str(found["reason"])
    other = "" if found["same_settings"] in (True, None) else ", of a run with other settings"
    where = f"round {found['committed']} of {found['num_rounds']}{other}, in {found['run_dir']}"
    if found["perplexity"] is None:
        return f"not scored yet, {where}"
    return f"perplexity {readable_perplexity(found['perplexity'])}  loss {found['eval_loss']:.4f}, {where}"
