"""An MLflow run in a SQLite file."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping

from fedmq.tracking.tracker import About, Tracker

_RUN = "fedmq.run"
#: In the last place of each batch: what is there up to a step is all there.
_MARK = "round"


def mlflow(about: About) -> Tracker:
    """Metrics, the config as parameters, the digest as a tag. Rounds that the run has already are skipped."""
    # It would tell its makers of its use.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    with warnings.catch_warnings():
        # Of SQLAlchemy, about MLflow.
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        # The import sets levels of its own.
        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        about.folder.mkdir(parents=True, exist_ok=True)
        client = MlflowClient(tracking_uri=f"sqlite:///{about.folder.absolute() / 'mlflow.db'}")
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
