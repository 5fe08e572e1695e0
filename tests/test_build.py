"""Names to factories."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from fedmq import build
from fedmq.algorithms.aggregate import Update, fedavg
from fedmq.config import get_default_config
from fedmq.config_federated import AGGREGATIONS, FederatedConfig
from fedmq.errors import ConfigError
from fedmq.storage.journal import Journal


@pytest.mark.parametrize("pick", [build.aggregator, build.lora_aggregator, build.server_optimizer, build.sampler])
def test_an_unknown_name_lists_the_known_ones_and_the_nearest(pick) -> None:
    with pytest.raises(ConfigError, match=r"unknown .*'zzz'; known: [a-z]+"):
        pick("zzz")


def test_a_near_miss_is_named() -> None:
    with pytest.raises(ConfigError, match="did you mean 'fedavg'"):
        build.aggregator("fedavgs")


def test_the_config_allows_exactly_what_can_be_built() -> None:
    fields = FederatedConfig.model_fields
    assert set(AGGREGATIONS) == set(build.AGGREGATORS)
    assert all(name in fields["aggregation_method"].description for name in AGGREGATIONS)
    assert set(get_args(fields["lora_aggregation"].annotation)) == set(build.LORA_AGGREGATORS)
    assert set(get_args(fields["weighting"].annotation)) == set(build.WEIGHTINGS)


def test_a_default_config_is_complete_for_a_run_spec() -> None:
    spec = get_default_config().to_run_spec()
    assert (spec.model.name, spec.lora.r, spec.training.batch_size, spec.seed) == ("gpt2", 8, 8, 42)


@pytest.mark.parametrize(
    ("engine", "given", "together"),
    [("auto", "auto", None), ("fast", 4, 4), ("auto", 1, 1), ("hf", "auto", 1), ("hf", 4, 1)],
)
def test_how_many_clients_are_trained_together(engine: str, given: int | str, together: int | None) -> None:
    config = get_default_config()
    config.training.engine, config.training.clients_per_batch = engine, given
    policy = build.round_policy(config)
    assert (policy.clients_per_batch, policy.batch_size, policy.cohort) == (together, 8, 3)
    assert policy.quorum == 3, "null = all of them"


def test_floras_new_factors_are_of_the_runs_seed_unless_it_says_another(tmp_path: Path) -> None:
    """Else runs of other seeds would begin each round alike."""
    like = {"m.lora_A.weight": np.zeros((2, 3), np.float32), "m.lora_B.weight": np.zeros((3, 2), np.float32)}

    def begun(seed: int, options: dict[str, int] | None = None) -> list[float]:
        config = get_default_config()
        config.seed = seed
        config.federated.lora_aggregation, config.federated.lora_aggregation_options = "flora", options or {}
        (folder := tmp_path / f"{seed} {options}").mkdir()
        journal = Journal.create(folder / "run.db", {})
        rule = build.server(config, folder, journal).aggregator
        journal.close()
        update = Update("client_0", 0, 1, 1, {name: np.zeros(value.shape) for name, value in like.items()})
        return list(rule.finish(rule.fold(rule.init(like), update, 1.0))["m.lora_A.weight"].ravel())

    assert begun(1) == begun(2, {"seed": 1}) != begun(2)


def test_a_rule_that_merges_needs_a_base_that_can_grow(tmp_path: Path) -> None:
    config = get_default_config()
    config.federated.download_codec = "int4"
    journal = Journal.create(tmp_path / "run.db", {})
    with pytest.raises(ConfigError, match="merges into the base, which goes neither with"):
        build.server(config, tmp_path, journal, own_aggregator=fedavg()._replace(merged=lambda state: {}))
    journal.close()


def test_what_an_update_may_claim_and_weigh(tmp_path: Path) -> None:
    config = get_default_config()
    config.federated.max_client_examples, config.federated.max_update_norm = 100, 7.0
    journal = Journal.create(tmp_path / "run.db", {})
    server = build.server(config, tmp_path, journal)
    assert server.limits == (7.0, 128 * 3, None, False)
    assert [server.weighting(n, 20 * n) for n in (50, 10**7)] == [50.0, 100.0]
    journal.close()
