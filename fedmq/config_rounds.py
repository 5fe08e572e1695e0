"""When a round begins and ends, and for whom it waits: the first part of section `federated` of a config."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator

from fedmq.config_section import Options, Section, described, options_conflict


def _auto_or_seconds(value: Any) -> Any:
    number = isinstance(value, (int, float)) and type(value) is not bool and math.isfinite(value) and value > 0
    if value is None or value == "auto" or number:
        return value
    raise ValueError('should be a number of seconds > 0, "auto" or null')


Deadline = Annotated[float | Literal["auto"] | None, BeforeValidator(_auto_or_seconds)]


class RoundsConfig(Section):
    """Clients and rounds."""

    section: ClassVar[str] = "federated"

    num_clients: int = described(10, "clients, each with a shard of its own", "clients", ge=1)
    num_rounds: int = described(
        5, "rounds of selection, training and aggregation, 0 = the base is scored; async: versions", "rounds", ge=0
    )
    clients_per_round: int = described(
        3, "clients drawn in each round; async: clients that train at a time", "clients", ge=1
    )
    mode: Literal["sync", "semi_sync", "async"] = described(
        "sync",
        "for whom a round waits: sync = all that were drawn; semi_sync = until a deadline, for a quorum; async = a "
        "buffer of updates makes a version, whenever their training began; docs/modes.md",
    )
    async_options: Options = described(
        {},
        "of mode async: buffer_size (default: half of clients_per_round), discount (polynomial, hinge, constant) with "
        "its a and b, max_staleness (versions)",
    )
    min_clients: int | None = described(
        None,
        "updates without which a round never commits (quorum); null = clients_per_round, semi_sync: half of it",
        "clients",
        ge=1,
    )
    round_deadline_s: Deadline = described(
        None,
        "a round closes then with its quorum, else clients are drawn anew; null = never, semi_sync: auto; "
        '"auto" = median + 6 median absolute deviations of the rounds before, at least twice the median',
        "s",
    )
    over_selection: float = described(
        1.0, "as many times clients_per_round are drawn; the first clients_per_round count", "factor", ge=1, le=3
    )
    stall_timeout_s: float = described(
        300.0, "a training without a step for so long is stopped and tried again", "s", gt=0
    )
    start_timeout_s: float = described(120.0, "longest wait for the first workers", "s", gt=0)

    def quorum(self) -> int:
        """Updates without which a round never commits; async: the buffer, that makes a version."""
        if self.mode == "async":
            return int(self.async_options.get("buffer_size") or math.ceil(self.clients_per_round / 2))
        if self.min_clients is not None:
            return self.min_clients
        return math.ceil(self.clients_per_round / 2) if self.mode == "semi_sync" else self.clients_per_round

    def deadline_s(self) -> float | Literal["auto"] | None:
        """Seconds after which a round closes; None where it waits for everyone."""
        return "auto" if self.mode == "semi_sync" and self.round_deadline_s is None else self.round_deadline_s

    def conflict(self) -> str | None:
        if self.clients_per_round > self.num_clients:
            return (
                f"federated.clients_per_round: {self.clients_per_round} is more than num_clients {self.num_clients}; "
                "lower clients_per_round, or raise num_clients, first"
            )
        if self.min_clients is not None and self.min_clients > self.clients_per_round:
            return (
                f"federated.min_clients: {self.min_clients} is more than clients_per_round {self.clients_per_round}; "
                "lower min_clients, or raise clients_per_round, first"
            )
        return self._async_conflict() if self.mode == "async" else self._options_without_async()

    def _options_without_async(self) -> str | None:
        if not self.async_options:
            return None
        return f'federated.async_options: of no use in mode "{self.mode}"; set mode "async", or async_options {{}}'

    def _async_conflict(self) -> str | None:
        for name in ("min_clients", "round_deadline_s", "over_selection"):
            value = getattr(self, name)
            if value != type(self).model_fields[name].default:
                return (
                    f'federated.{name}: {value} is for rounds that are waited for, and mode "async" waits for nobody; '
                    "leave it out, or change mode"
                )
        if not self.async_options:
            return None
        from fedmq.algorithms import staleness  # and numpy, which most commands have no use for

        where = "federated.async_options"
        if conflict := options_conflict(where, "async", self.async_options, staleness.fedbuff):
            return conflict
        if self.quorum() > self.clients_per_round:
            return (
                f"{where}: buffer_size {self.quorum()} is more than clients_per_round {self.clients_per_round}, the "
                "clients that train at a time; lower buffer_size, or raise clients_per_round, first"
            )
        return None
