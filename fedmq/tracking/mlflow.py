"""An MLflow run in a SQLite file."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

from fedmq.errors import ConfigError
from fedmq.tracking.tracker import About, Tracker

_RUN = "fedmq.run"
#: In the last place of each batch: what is there up to a step is all there.
_MARK = "round"


def mlflow(about: About) -> Tracker:
    """Metrics, the config as parameters, the digest as a tag. Rounds that the run has already are skipped."""
    # It would tell its makers of its use.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    # The import sets levels of its own.
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    database = str(about.folder.absolute() / "mlflow.db")
    if any(mark in database for mark in "%?"):
        # It is named by a URL, and what MLflow and SQLAlchemy make of these differs: the file would lie elsewhere.
        raise ConfigError(f"its database cannot be {database}: choose an output_dir without % and ?")
    about.folder.mkdir(parents=True, exist_ok=True)
    client = MlflowClient(tracking_uri=f"sqlite:///{database}")
    known = client.get_experiment_by_name("fedmq")
    artifacts = str((about.folder / "artifacts").absolute())
    experiment = known.experiment_id if known else client.create_experiment("fedmq", artifact_location=artifacts)
    found = client.search_runs([experiment], filter_string=f"tags.`{_RUN}` = '{about.run}'")
    if found:
        run = found[0].info.run_id
        client.update_run(run, status="RUNNING")
    else:
        run = client.create_run(experiment, tags={_RUN: about.run}, run_name=about.name).info.run_id
        params = [Param(key, str(value)[:6000]) for key, value in about.config.items()]
        for start in range(0, len(params), 100):
            client.log_batch(run, params=params[start : start + 100])
    logged = {int(metric.step) for metric in client.get_metric_history(run, _MARK)}

    def log(step: int, at: float, scalars: Mapping[str, float]) -> None:
        if step in logged:
            return
        values = [*scalars.items(), (_MARK, float(step))]
        metrics = [Metric(name, value, int(at * 1000), step) for name, value in values]
        for start in range(0, len(metrics), 1000):
            client.log_batch(run, metrics=metrics[start : start + 1000])

    def end(done: bool, digest: str) -> None:
        if done:
            client.set_tag(run, "digest", digest)
        client.set_terminated(run, "FINISHED" if done else "KILLED")

    return Tracker(log, end)
