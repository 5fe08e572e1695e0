"""Finished runs that nobody trained: journals written with the journal's own methods, with any number of clients."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedmq.config import ExperimentConfig
from fedmq.storage.hosted import Hosted
from fedmq.storage.journal import Journal
from fedmq.storage.run_folder import DATABASE, new_meta

BEGIN = 1_790_000_000.0


def make_run(
    folder: Path,
    clients: Sequence[str] = ("client_0", "client_1", "client_2"),
    rounds: int = 3,
    per_round: int = 2,
    own_texts: bool = False,
    texts: Sequence[tuple[int, str]] = ((0, " is lost."), (3, " is here.")),
    warnings: Sequence[str] = (),
    status: str = "done",
    decay: float = 0.5,
    workers: int = 2,
    **settings: Any,
) -> Path:
    """A run's folder.

    Args:
      folder: to be made.
      clients, rounds, per_round: how many, by name.
      own_texts: clients are scored, each on its own texts; else the test split is.
      texts: version and continuation of the one prompt.
      warnings: as noted.
      status: of the run; "running" is one that was killed.
      decay: how fast the loss falls.
      workers: how many hosts there are.
      settings: of the config.
    """
    config = ExperimentConfig.from_dict({"output_dir": str(folder), "experiment_name": "a made run", **settings})
    values = config.to_dict()
    values["federated"] |= {"num_rounds": rounds, "num_clients": len(clients), "clients_per_round": per_round}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(values))
    journal = Journal.create(folder / DATABASE, new_meta(json.dumps(values), "{}"))
    now = [BEGIN]
    journal.clock = lambda: now[0]  # type: ignore[method-assign]
    # Durable or not is nothing to these tests, and five hundred clients are fifty thousand rows.
    journal._db.execute("PRAGMA synchronous=OFF")
    journal.put(
        status=status,
        base_digest="ba" * 32,
        data=json.dumps({"inputs": "da" * 32, "file": "tweets.csv"}),
        started_at=str(BEGIN),
        **{Hosted.key(name): Hosted(40 + i, 900, ("w0",)).encoded() for i, name in enumerate(clients)},
        **{f"data/{name}": "c0" * 32 for name in clients},
    )
    journal.commit_round(0, "00" * 32)
    _score(journal, 0, 6.0, clients if own_texts else ())
    for round in range(1, rounds + 1):
        now[0] += 1
        drawn = [clients[(round + i) % len(clients)] for i in range(per_round)]
        journal.open_round(round, [[client] for client in drawn])
        opened, ended = now[0], 0.0
        for place, client in enumerate(drawn):
            worker, turn = place % workers, place // workers
            took = 4 + worker % 3 + 0.5 * math.sin(round + place)
            began = opened + 0.2 + turn * 5.5
            now[0], ended = began + took + 0.4, max(ended, began + took + 0.4)
            loss = 2.5 + 4 * math.exp(-decay * round) + 0.8 * math.sin(1.7 * clients.index(client))
            times = {"assigned_at": began, "offered_at": began + took}
            journal.add_update(
                round=round,
                client=client,
                started=round,
                worker=f"w{worker}",
                digest="ab" * 32,
                num_examples=40,
                num_tokens=900,
                num_steps=5,
                train_loss=loss,
                train_seconds=took,
                **{"norm": 1.5, "bytes_up": 400_000, "bytes_down": 200_000, "state_lost": False, **times},
            )
        now[0] = ended
        journal.freeze_round(round, drawn)
        now[0] += 0.5
        journal.commit_round(round, f"{round:02x}" * 32)
        journal.set_bias(round, 0.3 / round)
        _score(journal, round, 2.5 + 3.5 * math.exp(-decay * round), clients if own_texts else (), now[0])
    for version, text in texts:
        journal.add_generations(version, ["My order"], [text])
    for warning in warnings:
        journal.add_note("warning", warning)
    journal.close()
    return folder


def _score(journal: Journal, version: int, loss: float, clients: Sequence[str], now: float = BEGIN) -> None:
    units = {"test": loss} if not clients else {c: loss + 0.5 * math.sin(i) for i, c in enumerate(clients)}
    for unit, own in units.items():
        journal.add_evaluation(
            version=version,
            unit=unit,
            worker="w0",
            loss_sum=own * 500,
            num_tokens=500,
            num_examples=20,
            seconds=0.5,
            assigned_at=now - 0.4,
        )
