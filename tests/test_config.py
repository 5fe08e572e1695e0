"""The config: defaults, files, --set, and one clear line for whatever is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmq import recipe
from fedmq.algorithms import partition, sampling
from fedmq.config import (
    DataConfig,
    ExperimentConfig,
    FederatedConfig,
    GenerationConfig,
    LoRAConfig,
    ModelConfig,
    TrainingConfig,
    get_default_config,
    resolve_dataset_path,
)
from fedmq.config_federated import SELECTIONS
from fedmq.config_section import Section
from fedmq.errors import ConfigError
from fedmq.partitioning import partition_data

DEFAULTS = {
    "experiment_name": "federated_gpt2_lora",
    "output_dir": "./fed_results",
    "log_dir": "./fed_logs",
    "seed": 42,
    "device": "cuda",
    "model": {"model_name": "gpt2", "max_length": 128, "cache_dir": None},
    "lora": {
        "r": 8,
        "lora_alpha": 16,
        "target_modules": ["c_attn", "c_proj"],
        "lora_dropout": 0.1,
        "layers_to_transform": None,
        "bias": "none",
        "rank_per_client": {},
        "task_type": "CAUSAL_LM",
    },
    "training": {
        "num_epochs": 3,
        "batch_size": 8,
        "learning_rate": 5e-5,
        "weight_decay": 0.01,
        "warmup_steps": 100,
        "gradient_accumulation_steps": 1,
        "max_grad_norm": 1.0,
        "logging_steps": 10,
        "save_steps": 500,
        "eval_steps": 100,
        "fp16": False,
        "shuffle_dataset": True,
        "max_samples_per_client": None,
        "gradient_checkpointing": False,
        "engine": "auto",
        "precision": "auto",
        "clients_per_batch": "auto",
        "num_threads": None,
        "local_optimizer": "adamw",
        "sgd_momentum": 0.0,
        "optimizer_state": "reset",
    },
    "federated": {
        "num_clients": 10,
        "num_rounds": 5,
        "clients_per_round": 3,
        "mode": "sync",
        "async_options": {},
        "data_distribution": "iid",
        "distribution_options": {},
        "selection": "uniform",
        "selection_options": {},
        "aggregation_method": "fedavg",
        "local_method": "fedavg",
        "local_method_options": {},
        "aggregation_options": {},
        "lora_aggregation": "fedit",
        "lora_aggregation_options": {},
        "server_optimizer": "none",
        "server_optimizer_options": {},
        "upload_codec": "fp32",
        "upload_codec_options": {},
        "download_codec": "fp32",
        "download_codec_options": {},
        "min_samples_per_client": 100,
        "num_workers": None,
        "weighting": "examples",
        "max_client_examples": None,
        "max_update_norm": 1000.0,
        "min_clients": None,
        "round_deadline_s": None,
        "over_selection": 1.0,
        "stall_timeout_s": 300.0,
        "start_timeout_s": 120.0,
        "save_every": 5,
        "save_client_adapters": True,
    },
    "data": {
        "dataset_path": "./twcs/twcs.csv",
        "text_column": "text",
        "author_column": "author_id",
        "train_split": 0.8,
        "val_split": 0.1,
        "test_split": 0.1,
        "filter_min_length": 10,
        "filter_inbound_only": True,
    },
    "baseline": {
        "kind": None,
        "of": None,
        "run_clients": None,
        "run_clients_per_round": None,
        "run_max_samples": None,
        "scored_on": "test",
    },
}


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        ExperimentConfig.from_dict(values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults_are_the_documented_ones() -> None:
    values = get_default_config().to_dict()
    generation = values.pop("generation")
    assert values.pop("tracking") == {"backends": []}
    assert values == DEFAULTS
    assert len(generation["prompts"]) == 4
    assert (generation["max_new_tokens"], generation["temperature"], generation["every"]) == (50, 0.7, 1)


def test_the_documented_script(tmp_path: Path) -> None:
    config = get_default_config()
    config.federated.num_clients = 10
    config.federated.data_distribution = "by_author"
    config.training.num_epochs = 3
    config.save(tmp_path / "my_config.json")
    assert ExperimentConfig.load(tmp_path / "my_config.json") == config
    assert [path.name for path in tmp_path.iterdir()] == ["my_config.json"]


@given(
    learning_rate=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    seed=st.integers(0, 2**63 - 1),
    prompts=st.lists(st.text(st.characters(codec="utf-8"), min_size=1), max_size=16),
)
def test_json_round_trip_is_exact(
    tmp_path_factory: pytest.TempPathFactory, learning_rate: float, seed: int, prompts: list[str]
) -> None:
    config = ExperimentConfig(
        seed=seed,
        training=TrainingConfig(learning_rate=learning_rate),
        generation=GenerationConfig(prompts=prompts),
    )
    path = tmp_path_factory.getbasetemp() / "round_trip.json"
    config.save(path)
    first = path.read_bytes()
    loaded = ExperimentConfig.load(path)
    loaded.save(path)
    assert loaded == config
    assert path.read_bytes() == first


def test_missing_sections_take_defaults(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text('{"seed": 7, "lora": {"r": 4}}')
    expected = get_default_config()
    expected.seed = 7
    expected.lora.r = 4
    assert ExperimentConfig.load(path) == expected


def test_toml(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('seed = 7\n[training]\nlearning_rate = 1\n[lora]\ntarget_modules = ["q_proj"]\n')
    config = ExperimentConfig.load(path)
    assert (config.seed, config.training.learning_rate, config.lora.target_modules) == (7, 1.0, ["q_proj"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"federated": {"num_client": 3}}, "federated.num_client: unknown key; did you mean num_clients"),
        ({"fedrated": {}}, "fedrated: unknown key; did you mean federated?"),
        ({"num_rounds": 3}, "num_rounds: unknown key; did you mean federated.num_rounds?"),
        ({"federated": {"num_epochs": 3}}, "federated.num_epochs: unknown key; did you mean training.num_epochs?"),
        ({"lora": {"two\nlines": 3}}, 'lora."two\\nlines": unknown key; known are r, lora_alpha'),
        ({"lora": {"zzz": 3}}, "lora.zzz: unknown key; known are r, lora_alpha"),
        (
            {"federated": {"data_distribution": "by_auther"}},
            "federated.data_distribution: got \"by_auther\", should be 'iid', 'non_iid', 'by_author', 'by_brand', "
            "'dirichlet', 'quantity' or 'length'; did you mean by_author?",
        ),
        (
            {"federated": {"data_distribution": "dirichlet", "distribution_options": {"alfa": 0.5}}},
            "federated.distribution_options: dirichlet has no option 'alfa'; did you mean alpha?",
        ),
        (
            {"federated": {"data_distribution": "dirichlet", "distribution_options": {"law": "hsu"}}},
            "federated.distribution_options: dirichlet: need law per_class or per_client, got 'hsu'",
        ),
        (
            {"federated": {"distribution_options": {"sigma": 1}}},
            "federated.distribution_options: iid has no option 'sigma'; it has none",
        ),
        (
            {"federated": {"data_distribution": "by_brand", "distribution_options": {"small": "grup"}}},
            "federated.distribution_options: by_brand: need small leave_out or group, got 'grup'",
        ),
        (
            {"federated": {"selection": "powr_of_choice"}},
            'federated.selection: got "powr_of_choice", should be a known name or module:attribute; did you mean '
            "power_of_choice?",
        ),
        (
            {"federated": {"selection": "power_of_choice", "selection_options": {"k": 2}}},
            "federated.selection_options: power_of_choice has no option 'k'; known are d",
        ),
        (
            {"federated": {"selection": "power_of_choice", "selection_options": {"d": 2}}},
            "federated.selection_options: d = 2 candidates, of which 3 are drawn in each round; it should be 3 to "
            "num_clients 10",
        ),
        (
            {"federated": {"selection": "power_of_choice", "selection_options": {"d": 4}, "over_selection": 1.5}},
            "d = 4 candidates, of which 5 are drawn in each round",
        ),
        (
            {"federated": {"selection": "power_of_choice", "selection_options": {"d": 11}}},
            "d = 11 candidates, of which 3 are drawn in each round; it should be 3 to num_clients 10",
        ),
        (
            {"federated": {"selection": "weighted", "weighting": "uniform"}},
            'federated.selection: "weighted" draws clients by what they weigh, which federated.weighting "uniform" '
            "makes the same for all",
        ),
        (
            {"federated": {"mode": "asynch"}},
            "federated.mode: got \"asynch\", should be 'sync', 'semi_sync' or 'async'; did you mean async?",
        ),
        (
            {"federated": {"async_options": {"buffer_size": 2}}},
            'federated.async_options: of no use in mode "sync"; set mode "async", or async_options {}',
        ),
        (
            {"federated": {"mode": "async", "async_options": {"buffer": 2}}},
            "federated.async_options: async has no option 'buffer'; did you mean buffer_size?",
        ),
        (
            {"federated": {"mode": "async", "async_options": {"buffer_size": 4}}},
            "federated.async_options: buffer_size 4 is more than clients_per_round 3, the clients that train at a time",
        ),
        (
            {"federated": {"mode": "async", "round_deadline_s": 5.0}},
            'federated.round_deadline_s: 5.0 is for rounds that are waited for, and mode "async" waits for nobody',
        ),
        (
            {"federated": {"mode": "async", "aggregation_method": "median"}},
            'federated.aggregation_method: "median" needs a cohort that trained from one version, and mode "async" has '
            "none; choose fedavg, norm_clip, or another mode",
        ),
        (
            {"federated": {"mode": "async", "lora_aggregation": "flexlora"}},
            'federated.lora_aggregation: "flexlora" needs a cohort',
        ),
        (
            {"federated": {"mode": "async", "selection": "weighted"}},
            'federated.selection: "weighted" needs a cohort',
        ),
        (
            {"federated": {"mode": "async"}, "training": {"clients_per_batch": 4}},
            "training.clients_per_batch: 4 clients that are trained together begin and end together",
        ),
        (
            {"federated": {"aggregation_method": "krumm"}},
            'federated.aggregation_method: got "krumm", should be a known name or module:attribute; did you mean krum?',
        ),
        ({"federated": {"aggregation_method": "my_rules.newest"}}, "module:attribute; known are fedavg, median, "),
        ({"federated": {"aggregation_method": "../my_rules:newest"}}, "should be a known name or module:attribute"),
        (
            {"federated": {"aggregation_method": "krum"}},
            "federated.aggregation_method: krum with f 1 needs at least 5 updates (n >= 2 f + 3), and a round may "
            "close with 3 (clients_per_round): raise clients_per_round first, or change aggregation_options",
        ),
        (
            {"federated": {"aggregation_method": "bulyan", "clients_per_round": 9, "min_clients": 6}},
            "bulyan with f 1 needs at least 7 updates (n >= 4 f + 3), and a round may close with 6 (min_clients)",
        ),
        (
            {
                "federated": {
                    "aggregation_method": "multi_krum",
                    "aggregation_options": {"m": 6},
                    "clients_per_round": 8,
                }
            },
            "multi_krum, variant paper, with f 1 and m 6 needs at least 9 updates (n >= 2 f + 3 and m + f + 2; ",
        ),
        (
            {"federated": {"aggregation_method": "trimmed_mean", "aggregation_options": {"trim": 2}}},
            "trimmed_mean with trim 2 needs at least 5 updates (n >= 2 trim + 1), and a round may close with 3",
        ),
        (
            {"federated": {"aggregation_method": "median", "clients_per_round": 2}},
            "median needs at least 3 updates (the median of two is their mean), and a round may close with 2",
        ),
        (
            {"federated": {"aggregation_method": "krum", "aggregation_options": {"ff": 1}}},
            "federated.aggregation_options: krum has no option 'ff'; did you mean f?",
        ),
        (
            {"federated": {"aggregation_method": "my_rules:newest", "lora_aggregation": "ffa"}},
            'federated.lora_aggregation: "ffa" averages by itself, aggregation_method "my_rules:newest" would not be',
        ),
        (
            {"federated": {"aggregation_method": "median", "aggregation_options": {"f": 1}}},
            "federated.aggregation_options: median has no option 'f'; it has none",
        ),
        (
            {"federated": {"aggregation_method": "trimmed_mean", "aggregation_options": {"trim": 0.1}}},
            "federated.aggregation_options: trimmed_mean: need a whole trim of at least 1, got 0.1",
        ),
        (
            {"federated": {"aggregation_method": "median", "lora_aggregation": "flexlora"}},
            'federated.lora_aggregation: "flexlora" averages by itself, aggregation_method "median" would not be used',
        ),
        ({"federated": {"lora_aggregation": "flexlore"}}, "did you mean flexlora?"),
        (
            {"lora": {"rank_per_client": {"client_0": 4}}},
            'lora.rank_per_client: lora_aggregation "fedit" takes the mean of each number of A and B, and a client of',
        ),
        (
            {"lora": {"rank_per_client": {"client_0": 4}}, "federated": {"lora_aggregation": "rolora"}},
            "set federated.lora_aggregation to flexlora, flora or hetlora",
        ),
        (
            {"lora": {"rank_per_client": {"client_0": 4}}, "federated": {"aggregation_method": "median"}},
            "set federated.lora_aggregation to flexlora, flora or hetlora",
        ),
        (
            {"lora": {"rank_per_client": {"client_0": 4, "client_1": 9}}, "federated": {"lora_aggregation": "hetlora"}},
            "lora.rank_per_client: client_1 has rank 9; it should be 1 to lora.r, which is 8",
        ),
        ({"lora": {"rank_per_client": {"client_0": 0}}}, "client_0 has rank 0; it should be 1 to lora.r, which is 8"),
        ({"lora": {"rank_per_client": {"client_0": 4.5}}}, "lora.rank_per_client.client_0: got 4.5"),
        ({"lora": {"rank_per_client": {"north": 4}}}, "'north' is no client id; one is client_0, or client_north"),
        (
            {"federated": {"mode": "async", "lora_aggregation": "hetlora"}},
            'federated.lora_aggregation: "hetlora" needs a cohort',
        ),
        (
            {"federated": {"lora_aggregation": "fedsa", "aggregation_method": "median"}},
            'federated.lora_aggregation: "fedsa" averages by itself, aggregation_method "median" would not be used',
        ),
        (
            {"federated": {"lora_aggregation": "fedsa", "local_method": "scaffold"}},
            'federated.local_method: "scaffold" averages by itself, lora_aggregation "fedsa" would not be used',
        ),
        (
            {"federated": {"lora_aggregation": "flexlora", "lora_aggregation_options": {"lam": 0.5}}},
            "federated.lora_aggregation_options: flexlora has no option 'lam'; it has none",
        ),
        (
            {"federated": {"lora_aggregation": "lora_fair", "lora_aggregation_options": {"lam": 0}}},
            "federated.lora_aggregation_options: lora_fair: need lam > 0, got 0",
        ),
        ({"federated": {"server_optimizer": "nestorov"}}, "did you mean nesterov?"),
        (
            {"federated": {"server_optimizer": "avgm", "server_optimizer_options": {"momentumm": 0.5}}},
            "federated.server_optimizer_options: avgm has no option 'momentumm'; did you mean momentum?",
        ),
        (
            {"federated": {"server_optimizer": "adam", "server_optimizer_options": {"beta1": 1}}},
            "federated.server_optimizer_options: adam: need beta1 in [0, 1), got 1",
        ),
        (
            {"federated": {"server_optimizer_options": {"lr": True}}},
            "federated.server_optimizer_options: none: need lr > 0, got True",
        ),
        (
            {"federated": {"round_deadline_s": 0}},
            'federated.round_deadline_s: got 0, should be a number of seconds > 0, "auto" or null',
        ),
        ({"federated": {"over_selection": 0.5}}, "federated.over_selection: got 0.5, should be greater than or equal"),
        ({"training": {"engine": "fst"}}, "should be 'auto', 'fast' or 'hf'"),
        (
            {"training": {"clients_per_batch": 65}},
            'got 65, should be "auto" or a number from 1 to 64',
        ),
        ({"lora": {"layers_to_transform": [-1]}}, "lora.layers_to_transform[0]: got -1, should be greater than or"),
        ({"training": {"batch_size": "3"}}, 'training.batch_size: got "3", should be a valid integer'),
        ({"training": {"batch_size": True}}, "training.batch_size: got true, should be a valid integer"),
        ({"training": {"batch_size": 3.0}}, "training.batch_size: got 3.0, should be a valid integer"),
        ({"training": {"learning_rate": 0}}, "training.learning_rate: got 0, should be greater than 0"),
        ({"training": {"learning_rate": True}}, "training.learning_rate: got true, should be a valid number"),
        ({"training": {"learning_rate": float("nan")}}, "should be a finite number"),
        ({"training": {"num_threads": "4"}}, 'training.num_threads: got "4", should be a valid integer or null'),
        ({"training": {"fp16": 1}}, "training.fp16: got 1, should be a valid boolean"),
        ({"training": {"fp16": True, "precision": "bf16"}}, 'training.fp16: true contradicts precision "bf16"'),
        ({"lora": {"lora_dropout": 1.0}}, "lora.lora_dropout: got 1.0, should be less than 1"),
        ({"lora": {"target_modules": "c_attn"}}, 'lora.target_modules: got "c_attn", should be a valid list'),
        ({"lora": {"target_modules": []}}, "lora.target_modules: got [], should have at least 1 item"),
        ({"lora": {"target_modules": ["c_attn", 3]}}, "lora.target_modules[1]: got 3, should be a valid string"),
        ({"model": {"max_length": 1}}, "model.max_length: got 1, should be greater than or equal to 2"),
        ({"model": None}, "model: got null, should be an object with the keys model_name, max_length, cache_dir"),
        ({"device": "gpu"}, 'device: got "gpu", should be "cuda", "cuda:N", "cpu" or "mps"'),
        ({"device": "cuda:x"}, 'device: got "cuda:x"'),
        ({"seed": -1}, "seed: got -1, should be greater than or equal to 0"),
        ({"federated": {"clients_per_round": 20}}, "clients_per_round: 20 is more than num_clients 10"),
        ({"federated": {"min_clients": 4}}, "min_clients: 4 is more than clients_per_round 3"),
        ({"data": {"test_split": 0}}, "data.test_split: got 0, should be greater than 0"),
        ({"data": {"train_split": 0.7}}, "are 0.7, 0.1 and 0.1, which sum to 0.9; they should sum to 1"),
        ({"generation": {"temperature": -0.1}}, "generation.temperature: got -0.1"),
        ({"training": {"batch_size": 0, "eval_steps": 0}}, "training.batch_size: got 0, should be greater"),
    ],
)
def test_refused_values(values: dict[str, Any], message: str) -> None:
    assert message in refusal(values)


def test_two_errors_in_one_line() -> None:
    message = refusal({"training": {"batch_size": 0, "eval_step": 1}})
    assert "training.batch_size" in message and "training.eval_step: unknown key; did you mean eval_steps" in message


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:15", "cpu", "mps"])
def test_devices(device: str) -> None:
    assert ExperimentConfig(device=device).device == device


@pytest.mark.parametrize(
    ("section", "name", "value", "message"),
    [
        ("federated", "num_rounds", -1, "federated.num_rounds: got -1"),
        ("federated", "num_round", 3, "federated.num_round: unknown key; did you mean num_rounds"),
        ("federated", "clients_per_round", 20, "20 is more than num_clients 10"),
        ("federated", "num_clients", 2, "lower clients_per_round, or raise num_clients, first"),
        ("training", "precision", "fp23", "did you mean fp32?"),
    ],
)
def test_a_refused_assignment_leaves_no_trace(section: str, name: str, value: Any, message: str) -> None:
    config = get_default_config()
    with pytest.raises(ConfigError) as caught:
        setattr(getattr(config, section), name, value)
    assert message in str(caught.value)
    assert config == get_default_config()


def test_a_section_is_checked_where_it_is_made_and_where_it_is_put() -> None:
    with pytest.raises(ConfigError, match="clients_per_round: 3 is more than num_clients 1"):
        FederatedConfig(num_clients=1)
    config = get_default_config()
    with pytest.raises(ConfigError, match="should be an object"):
        config.federated = 3  # type: ignore[assignment]
    config.federated = FederatedConfig(num_clients=3)
    assert config.federated.num_clients == 3


def test_splits_are_checked_once_all_are_set(tmp_path: Path) -> None:
    config = get_default_config()
    config.data.train_split = 0.6
    for refused in (config.validate_all, lambda: config.save(tmp_path / "c.json")):
        with pytest.raises(ConfigError, match=r"sum to 0\.8"):
            refused()
    assert not list(tmp_path.iterdir())
    config.data.test_split = 0.3
    config.validate_all()


def test_a_list_changed_in_place_is_checked_too() -> None:
    config = get_default_config()
    config.lora.target_modules.append(3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"lora\.target_modules\[2\]: got 3"):
        config.validate_all()


def test_configs_do_not_share_lists() -> None:
    get_default_config().lora.target_modules.append("c_fc")
    assert get_default_config().lora.target_modules == ["c_attn", "c_proj"]


def test_paths_may_be_path_objects(tmp_path: Path) -> None:
    config = get_default_config()
    config.output_dir = tmp_path  # type: ignore[assignment]
    assert config.output_dir == str(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.json", b'{"seed": 1,}', "line 1, column"),
        ("c.json", b'{\n"seed": }', "line 2, column 9: not JSON"),
        ("c.json", b'{"seed": 1, "seed": 2}', "seed: key given twice"),
        ("c.json", b'{"training": {"learning_rate": NaN}}', "NaN is not JSON"),
        ("c.json", b"[1]", "should hold an object of sections, holds list"),
        ("c.json", b'{"experiment_name": "\xff"}', "byte 21 is not UTF-8"),
        ("c.json", b"[" * 100_000, "nested too deeply"),
        ("c.toml", b"seed = = 1", "not TOML"),
        ("c.yaml", b"seed: 1", "ends with .json or .toml"),
        ("c.json", b'{"federated": {"num_client": 3}}', "unknown key; did you mean num_clients or min_clients? (in "),
        ("c.toml", b"seed = 2001-01-01", "seed: got "),
    ],
)
def test_refused_files_are_named_in_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        ExperimentConfig.load(path)
    assert message in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.json: no such config file"):
        ExperimentConfig.load(tmp_path / "none.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(ConfigError, match="cannot read the config file"):
        ExperimentConfig.load(tmp_path / "folder.json")


def test_saving_elsewhere_than_to_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ends with \.json"):
        get_default_config().save(tmp_path / "c.toml")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write the config"):
        get_default_config().save(tmp_path / "file" / "c.json")


def test_overrides() -> None:
    config = get_default_config()
    changed = config.with_overrides(
        [
            "federated.num_clients=2",
            "federated.clients_per_round=2",
            "seed=1",
            "data.dataset_path=a=b.csv",
            "model.cache_dir=null",
            'lora.target_modules=["q_proj"]',
            "training.learning_rate=1e-3",
            "seed=2",
        ]
    )
    assert (changed.federated.num_clients, changed.federated.clients_per_round, changed.seed) == (2, 2, 2)
    assert changed.data.dataset_path == "a=b.csv"
    assert changed.lora.target_modules == ["q_proj"]
    assert changed.training.learning_rate == 1e-3
    assert config == get_default_config()


def test_options_are_set_whole_or_one_by_one() -> None:
    chosen = get_default_config().with_overrides(["federated.server_optimizer=nesterov"])
    whole = chosen.with_overrides(['federated.server_optimizer_options={"lr": 1, "momentum": 0.5}'])
    parts = ["federated.server_optimizer_options.lr=1", "federated.server_optimizer_options.momentum=0.5"]
    assert chosen.with_overrides(parts) == whole
    assert whole.federated.server_optimizer_options == {"lr": 1, "momentum": 0.5}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("federated.num_round=3", "federated.num_round: unknown key; did you mean num_rounds"),
        ("federatd.num_rounds=3", "federatd: unknown key; did you mean federated?"),
        ("num_rounds=3", "did you mean federated.num_rounds?"),
        ("federated=3", "federated: is a section; set one of its keys, such as federated.num_clients=VALUE"),
        ("federated={}", "federated: is a section"),
        ("seed", "'seed': should be SECTION.KEY=VALUE or KEY=VALUE"),
        ("=3", "should be SECTION.KEY=VALUE"),
        ("seed.x=3", "seed.x: unknown key; seed is no section"),
        ("seed=x", 'seed: got "x", should be a valid integer'),
        ("seed=NaN", "NaN is not JSON"),
        ("federated.clients_per_round=11", "11 is more than num_clients 10"),
    ],
)
def test_refused_overrides(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        get_default_config().with_overrides([assignment])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_print_shows_every_field_on_a_line_of_its_own() -> None:
    lines = str(get_default_config()).splitlines()
    assert 'dataset_path                 "./twcs/twcs.csv"' in lines
    assert "[training]" in lines
    for name, value in get_default_config().to_dict().items():
        for field in value if isinstance(value, dict) else [name]:
            assert sum(line.split(" ")[0] == field for line in lines) == 1


def test_schema_describes_every_field() -> None:
    schema = ExperimentConfig.json_schema()
    json.dumps(schema)
    sections = [schema, *schema["$defs"].values()]
    assert len(sections) == 9
    for section in sections:
        assert section["additionalProperties"] is False
        for name, field in section["properties"].items():
            assert field["description"], name
            assert "default" in field or "$ref" in field, name
    federated = schema["$defs"]["FederatedConfig"]["properties"]
    assert federated["start_timeout_s"]["unit"] == "s"
    assert set(federated["data_distribution"]["enum"]) == set(partition.BY_NAME)
    assert set(SELECTIONS) == set(sampling.BY_NAME)
    assert all(name in federated["selection"]["description"] for name in SELECTIONS)


def test_what_of_selection_and_partition_can_stand_together() -> None:
    for federated in (
        {"selection": "weighted"},
        {"selection": "weighted", "weighting": "tokens"},
        {"selection": "power_of_choice", "weighting": "uniform"},
        {"selection": "power_of_choice", "selection_options": {"d": 3}},
        {"selection": "power_of_choice", "selection_options": {"d": 10}, "over_selection": 3.0},
        {"selection": "my_rules:newest", "selection_options": {"whatever": "my rule says"}},
        {"data_distribution": "by_author", "distribution_options": {"small": "group"}},
        {"data_distribution": "dirichlet", "distribution_options": {"alpha": 1, "label": "length", "length_bins": 5}},
    ):
        ExperimentConfig.from_dict({"federated": federated})


def test_decisive_settings_are_those_that_change_the_result() -> None:
    decisive = get_default_config().decisive()
    machinery = ["output_dir=x", "log_dir=x", "device=cpu", "model.cache_dir=x", "federated.num_workers=2"]
    machinery += ["generation.every=7", 'tracking.backends=["wandb"]']
    assert get_default_config().with_overrides([*machinery, "federated.start_timeout_s=1"]).decisive() == decisive
    assert "tracking" not in decisive and "every" not in decisive["generation"], "runs begun before these resume"
    for assignment in ("seed=1", "training.num_threads=1", "training.learning_rate=1", "data.dataset_path=x"):
        assert get_default_config().with_overrides([assignment]).decisive() != decisive, assignment


def test_run_spec_holds_the_sections() -> None:
    config = get_default_config().with_overrides(["training.num_threads=2", "model.max_length=64", "seed=9"])
    spec = config.to_run_spec()
    assert (spec.experiment_name, spec.seed) == ("federated_gpt2_lora", 9)
    assert spec.model == recipe.ModelSpec("gpt2", 64)
    assert spec.lora == recipe.LoRASpec(8, 16, ("c_attn", "c_proj"), 0.1, None, "none", "CAUSAL_LM", False)
    assert spec.training.num_threads == 2
    assert spec.data.test_split == config.data.test_split
    assert spec.generation.prompts == tuple(config.generation.prompts)


def test_sections_know_their_names() -> None:
    sections: list[type[Section]] = [
        ModelConfig,
        LoRAConfig,
        TrainingConfig,
        FederatedConfig,
        DataConfig,
        GenerationConfig,
    ]
    for section in sections:
        assert isinstance(getattr(get_default_config(), section.section), section)


def test_bundled_means_the_packaged_sample() -> None:
    assert resolve_dataset_path("bundled").parts[-3:] == ("fedmq", "assets", "support_tweets.csv")
    assert resolve_dataset_path("./bundled") == Path("bundled")


def test_what_a_mode_waits_for() -> None:
    federated = get_default_config().federated
    federated.num_clients = federated.clients_per_round = 5
    assert (federated.quorum(), federated.deadline_s()) == (5, None)
    federated.mode = "semi_sync"
    assert (federated.quorum(), federated.deadline_s()) == (3, "auto")
    federated.min_clients, federated.round_deadline_s = 2, 30.0
    assert (federated.quorum(), federated.deadline_s()) == (2, 30.0)
    federated.min_clients = federated.round_deadline_s = None
    federated.mode = "async"
    assert federated.quorum() == 3, "half of those that train at a time, rounded up"
    federated.async_options = {"buffer_size": 1}
    assert federated.quorum() == 1


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            {
                "lora": {"rank_per_client": {"client_9": 4, "client_10": 4}},
                "federated": {"lora_aggregation": "flexlora"},
            },
            "lora.rank_per_client: this partition has no client_10; its clients are client_0",
        ),
        (
            {"federated": {"lora_aggregation": "fedsa"}, "data": {"val_split": 0.0, "test_split": 0.2}},
            'federated.lora_aggregation: "fedsa" gives each client a model of its own, which is scored on texts of',
        ),
    ],
)
def test_what_only_a_partition_can_refuse(tmp_path: Path, values: dict[str, Any], text: str) -> None:
    """Owners have names of their own, and hold out texts themselves, so a config alone cannot tell."""
    config = ExperimentConfig.from_dict(values)
    with pytest.raises(ConfigError, match=text):
        partition_data(config, tmp_path)
