"""Series of numbers out of what was read of a run (`fedmq.inspection.inspect_run`): no drawing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

Found = Mapping[str, Any]
#: An axis has room around what is drawn, and logarithms are taken of its ends.
_BEYOND = 1e150


class Scores(NamedTuple):
    """By evaluated version, 0 = before training.

    Attributes:
      versions: ascending.
      losses: nats per token; nan where it was no number.
      perplexities: of each.
      by_client: whether clients' held-out texts were scored, rather than the test split.
    """

    versions: list[int]
    losses: list[float]
    perplexities: list[float]
    by_client: bool


class Losses(NamedTuple):
    """What each client's loss was.

    Attributes:
      evaluated: they are of held-out texts; else they are training losses.
      rounds: round -> client -> nats per token; only of clients that have one in it.
    """

    evaluated: bool
    rounds: dict[int, dict[str, float]]


class Spread(NamedTuple):
    """How far clients of one round are apart; all in nats per token.

    Attributes:
      best, worst: the least and the largest loss.
      tenth: the 10th percentile of how well clients do: the loss that nine in ten do not exceed.
      median: of the clients.
      clients: how many there were.
    """

    best: float
    median: float
    tenth: float
    worst: float
    clients: int


def scores(found: Found) -> Scores:
    """Loss and perplexity of the evaluated versions."""
    by_version = {int(version): score for version, score in found["scores"].items()}
    versions = sorted(by_version)
    return Scores(
        versions,
        [finite(by_version[v]["eval_loss"]) for v in versions],
        [finite(by_version[v]["perplexity"]) for v in versions],
        any("clients" in score for score in by_version.values()),
    )


def training_losses(found: Found) -> Losses:
    """Of the clients that each round's model is made of."""
    return Losses(
        False,
        {
            row["round"]: {client["client_id"]: finite(client["train_loss"]) for client in row["client_metrics"]}
            for row in found["rounds"]
            if row["client_metrics"]
        },
    )


def evaluation_losses(found: Found) -> Losses:
    """Of clients on their own held-out texts; of no round where the test split was scored."""
    return Losses(
        True,
        {
            int(version): {name: finite(own["eval_loss"]) for name, own in score["clients"].items()}
            for version, score in found["scores"].items()
            if "clients" in score
        },
    )


def client_losses(found: Found) -> Losses:
    """Of evaluations where there are any, else of trainings."""
    evaluated = evaluation_losses(found)
    return evaluated if evaluated.rounds else training_losses(found)


def spread(losses: Mapping[str, float]) -> Spread | None:
    """None where no loss is a number.

    Example:
      >>> spread({"a": 1.0, "b": 2.0, "c": 4.0})
      Spread(best=1.0, median=2.0, tenth=3.6, worst=4.0, clients=3)
    """
    known = np.array([loss for loss in losses.values() if math.isfinite(loss)])
    if not known.size:
        return None
    best, median, tenth, worst = np.quantile(known, [0, 0.5, 0.9, 1]).tolist()
    return Spread(best, median, tenth, worst, known.size)


def cumulative(found: Found, *directions: str) -> dict[int, int]:
    """Round -> what had crossed the wire when it was committed, in bytes; 0 bytes at round 0.

    Args:
      found: the run.
      directions: of "bytes_up", "bytes_down".
    """
    rows: Sequence[Found] = found["rounds"]
    sums = accumulate(sum(row[direction] for direction in directions) for row in rows)
    return {0: 0} | {row["round"]: total for row, total in zip(rows, sums, strict=True)}


def reached(found: Found, target: float) -> tuple[int, int] | None:
    """The first version whose loss is `target` or less: its round, and the bytes up to then; None if there is none."""
    known, nbytes = scores(found), cumulative(found, "bytes_up", "bytes_down")
    for version, loss in zip(known.versions, known.losses, strict=True):
        if loss <= target and version in nbytes:
            return version, nbytes[version]
    return None


def finite(value: float | None) -> float:
    """What can be drawn: nan where a loss was not scored, is no number, or beyond all axes, as of a run that diverged.

    Example:
      >>> finite(None), finite(2.5), finite(1e304)
      (nan, 2.5, nan)
    """
    return value if value is not None and abs(value) < _BEYOND else math.nan
