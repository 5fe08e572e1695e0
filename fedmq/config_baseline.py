"""Section `baseline` of a config: what a run is compared with, trained without a federation."""

from __future__ import annotations

from typing import ClassVar, Literal

from fedmq.config_section import Section, described

Kind = Literal["local", "central", "zero-shot"]


class BaselineConfig(Section):
    """Of a baseline, the run that it is one for. `fedmq run --baseline` fills it in; other runs leave it as it is."""

    section: ClassVar[str] = "baseline"

    kind: Kind | None = described(
        None,
        "local = each client trains alone; central = one trains on what all have; zero-shot = nobody trains; null = "
        "this is no baseline; docs/baselines.md",
    )
    of: str | None = described(None, "SHA-256 of the settings of the run that it is a baseline for")
    run_clients: int | None = described(None, "clients of that run", "clients", ge=1)
    run_clients_per_round: int | None = described(None, "whose trainings make a round of that run", "clients", ge=1)
    run_max_samples: int | None = described(None, "as training has it in that run", "rows", ge=1)
    scored_on: Literal["test", "own"] = described(
        "test", "the test split; own = texts that each client holds out, as under lora_aggregation fedsa"
    )

    def to_shards(self) -> list[int | str | None]:
        """What of it decides the shards."""
        return [self.kind, self.run_clients, self.run_clients_per_round, self.run_max_samples, self.scored_on]

    def conflict(self) -> str | None:
        if self.kind is None or None not in (self.of, self.run_clients, self.run_clients_per_round):
            return None
        return "baseline.kind: set by `fedmq run CONFIG --baseline KIND`, with the rest of this section"
