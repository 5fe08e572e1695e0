"""Section `tracking` of a config: where else rounds are recorded."""

from __future__ import annotations

from typing import ClassVar, Literal

from fedmq.config_section import Section, described

Backend = Literal["tensorboard", "mlflow", "wandb"]


class TrackingConfig(Section):
    """Trackers that are told of each round. They change no result, and none of them may stop a run."""

    section: ClassVar[str] = "tracking"

    backends: list[Backend] = described(
        [],
        "record rounds in OUTPUT_DIR/tracking too: tensorboard = event files, mlflow = a run in "
        "mlflow.db, wandb = an offline run; each needs the extra of its name; docs/tracking.md",
        strict=False,
    )

    def conflict(self) -> str | None:
        twice = sorted({name for name in self.backends if self.backends.count(name) > 1})
        return f"tracking.backends: {', '.join(twice)} is named twice; name each once" if twice else None
