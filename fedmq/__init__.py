"""fedmq: fine-tune a language model together, without giving the data away.

The names below are the public face. They are loaded when they are first used, so that a process
which needs no torch never imports it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedmq.config import (
        DataConfig,
        ExperimentConfig,
        GenerationConfig,
        get_default_config,
    )
    from fedmq.config_federated import FederatedConfig
    from fedmq.config_training import LoRAConfig, ModelConfig, TrainingConfig
    from fedmq.data.dataset import FederatedDataset
    from fedmq.federated_learning import FederatedLearning
    from fedmq.learning.client import FederatedClient
    from fedmq.runtime.server import FederatedServer

__version__ = "0.1.0"

__all__ = [
    "DataConfig",
    "ExperimentConfig",
    "FederatedClient",
    "FederatedConfig",
    "FederatedDataset",
    "FederatedLearning",
    "FederatedServer",
    "GenerationConfig",
    "LoRAConfig",
    "ModelConfig",
    "TrainingConfig",
    "get_default_config",
]

_HOMES = {
    "FederatedClient": "fedmq.learning.client",
    "FederatedConfig": "fedmq.config_federated",
    "FederatedDataset": "fedmq.data.dataset",
    "FederatedLearning": "fedmq.federated_learning",
    "FederatedServer": "fedmq.runtime.server",
    "LoRAConfig": "fedmq.config_training",
    "ModelConfig": "fedmq.config_training",
    "TrainingConfig": "fedmq.config_training",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'fedmq' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES.get(name, "fedmq.config")), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
