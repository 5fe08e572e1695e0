"""A Weights & Biases run, offline: `wandb sync` sends it, when a person wants that."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping

from fedmq.tracking.tracker import About, Tracker


def wandb(about: About) -> Tracker:
    """Metrics, config, and the digest in the summary, under one id. The files are written anew from round 0 on."""
    # It would tell its makers of its errors.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb as library

    shutil.rmtree(about.folder, ignore_errors=True)
    about.folder.mkdir(parents=True)
    # Nothing of the machine, and nothing of what this process prints, is recorded.
    quiet = library.Settings(
        console="off",
        silent=True,
        x_disable_stats=True,
        x_disable_meta=True,
        x_save_requirements=False,
        disable_git=True,
        save_code=False,
    )
    run = library.init(
        mode="offline",
        dir=str(about.folder),
        project="fedmq",
        id=about.run,
        name=about.name,
        config=dict(about.config),
        settings=quiet,
        # Without it a run that this process has open already, maybe one that is sent, would be taken for ours.
        reinit="create_new",
    )

    def log(step: int, at: float, scalars: Mapping[str, float]) -> None:
        run.log({**scalars, "committed_at": at}, step=step)

    def end(done: bool, digest: str) -> None:
        if done:
            run.summary["digest"] = digest
        run.finish(exit_code=0 if done else 1)

    return Tracker(log, end)
