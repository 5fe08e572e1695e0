"""Trackers by name, and whether their libraries are here."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence

from fedmq.errors import ConfigError
from fedmq.tracking.mlflow import mlflow
from fedmq.tracking.tensorboard import tensorboard
from fedmq.tracking.tracker import About, Tracker
from fedmq.tracking.wandb import wandb

BY_NAME: Mapping[str, Callable[[About], Tracker]] = {"tensorboard": tensorboard, "mlflow": mlflow, "wandb": wandb}
#: Modules that an extra of the same name brings.
_NEEDED = {"tensorboard": ("tensorboard",), "mlflow": ("mlflow", "sqlalchemy", "alembic"), "wandb": ("wandb",)}


def require(names: Sequence[str]) -> None:
    """Refuse a run before it starts.

    Raises:
      ConfigError: a library is not installed.
    """
    for name in names:
        for module in _NEEDED[name]:
            if importlib.util.find_spec(module) is None:
                raise ConfigError(
                    f"tracking.backends: {name} needs {module}, which is not installed: "
                    f"pip install 'fedmq[{name}]', or leave it out of tracking.backends"
                )
