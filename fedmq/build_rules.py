"""What a config's rules ask of the rest of it: the rule of a local method, claims of updates, a base that grows."""

from __future__ import annotations

from fedmq.algorithms import local_aggregate
from fedmq.algorithms.aggregate import Aggregator
from fedmq.algorithms.local_aggregate import LocalSteps
from fedmq.config import ExperimentConfig
from fedmq.errors import ConfigError
from fedmq.runtime.screening import UpdateLimits


def rule_of_method(config: ExperimentConfig) -> Aggregator | None:
    """What takes the place of the mean; None where the method leaves it."""
    federated, training = config.federated, config.training
    make = local_aggregate.BY_NAME.get(federated.local_method)
    if make is None:
        return None
    steps = LocalSteps(
        federated.num_clients, training.learning_rate, training.warmup_steps, momentum=training.sgd_momentum
    )
    return make(steps, **federated.local_method_options)


def update_limits(config: ExperimentConfig) -> UpdateLimits:
    """What an update may claim and be: the steps that its examples make, too, where it counts by these."""
    training = config.training
    batch = training.batch_size * training.gradient_accumulation_steps

    def num_steps(num_examples: int) -> int:
        return -(-num_examples // batch) * training.num_epochs

    told = config.federated.local_method in local_aggregate.BY_NAME
    return UpdateLimits(
        config.federated.max_update_norm,
        config.model.max_length * training.num_epochs,
        num_steps if told else None,
        empty=config.federated.shared() == "none",
    )


def require_base_can_grow(config: ExperimentConfig, rule: Aggregator) -> None:
    """Raise ConfigError where a rule merges into the base, and the rest of the config cannot have that."""
    federated = config.federated
    if rule.merged is not None and (federated.mode == "async" or federated.download_codec != "fp32"):
        raise ConfigError(
            f'{rule.label()} merges into the base, which goes neither with federated.mode "async" nor with a lossy '
            "federated.download_codec: set them to their defaults first"
        )
