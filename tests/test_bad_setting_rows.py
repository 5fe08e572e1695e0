"""B55 to B60 of docs/bad-input.md: what a person may give, or do to files. Refused in one line, nothing changed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedmq.config import ExperimentConfig
from fedmq.errors import ConfigError, FedmqError, RemoteProtocolError, StorageError
from fedmq.storage.blobs import BlobStore
from fedmq.storage.run_folder import open_run
from fedmq.transport.allowed import AllowList, allow
from fedmq.transport.keys import PublicKey, new_pair, read_pair, read_public
from fedmq.transport.zeromq import ZmqCoordinatorTransport


def edit(path: Path, **fields: str) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def as_link(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to("real")


def spoilt(spoil: Callable[[Path], object]) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        new_pair("north", folder)
        spoil(folder / "north.key")
        return read_pair(folder / "north.key")

    return read


def secret_as_public(folder: Path) -> object:
    new_pair("north", folder)
    (folder / "north.pub").write_bytes((folder / "north.key").read_bytes())
    return read_public(folder / "north.pub")


def list_with(text: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        allow(PublicKey("north", "n" * 40), folder)
        (folder / "allowed.json").write_text(text)
        return AllowList(folder)

    return read


def folder_of(config: dict[str, Any], version: int | None = None) -> Callable[[Path], object]:
    """A folder of a run with seed 1, opened with another config, or after its format changed."""

    def open_again(folder: Path) -> object:
        first = json.dumps({"seed": 1})
        run = open_run(folder, first, first, resume=False, overwrite=False)
        run.journal.close()
        run.lock.release()
        if version is not None:
            with sqlite3.connect(folder / "run.db") as database:
                database.execute(f"PRAGMA user_version={version}")
            database.close()
        return open_run(folder, json.dumps(config), json.dumps(config), resume=True, overwrite=False)

    return open_again


def settings(**sections: dict[str, Any]) -> Callable[[Path], object]:
    return lambda folder: ExperimentConfig.from_dict(dict(sections))


def edited_blob(folder: Path) -> object:
    blobs = BlobStore(folder)
    digest = blobs.add(b"an adapter")
    blobs.path(digest).write_bytes(b"an Adapter")
    return BlobStore(folder).read(digest)


TWICE = json.dumps({"allowed": [{"name": "north", "public": "n" * 40}] * 2})
ROWS: dict[str, tuple[Callable[[Path], object], type[FedmqError], str]] = {
    "B55 a key file of mode 0644": (spoilt(lambda path: path.chmod(0o644)), ConfigError, "chmod 600"),
    "B55 a link": (spoilt(as_link), ConfigError, "symbolic link"),
    "B55 a key of a wrong length": (spoilt(lambda path: edit(path, secret="x" * 39)), ConfigError, "damaged"),
    "B55 a key that is no Z85": (spoilt(lambda path: edit(path, secret="~" * 40)), ConfigError, "damaged"),
    "B55 a secret in the place of the public key": (secret_as_public, ConfigError, "it stays where it was made"),
    "B56 a list with a duplicate": (list_with(TWICE), ConfigError, "each name and each key once"),
    "B56 a list that is no JSON": (list_with("{"), ConfigError, "is damaged"),
    "B57 every address, without keys": (
        lambda folder: ZmqCoordinatorTransport("tcp://0.0.0.0:0"),
        ConfigError,
        "keys",
    ),
    "B57 every address, written *": (lambda folder: ZmqCoordinatorTransport("tcp://*:0"), ConfigError, "tcp://"),
    "B58 a folder of another run": (folder_of({"seed": 2}), ConfigError, "--overwrite"),
    "B58 a folder of another format": (folder_of({"seed": 1}, version=99), StorageError, "has format 99"),
    "B59 an unknown key": (settings(federated={"num_client": 3}), ConfigError, "did you mean num_clients"),
    "B59 a quorum above the cohort": (settings(federated={"min_clients": 4}), ConfigError, "clients_per_round 3"),
    "B59 a cohort above the clients": (settings(federated={"clients_per_round": 11}), ConfigError, "num_clients 10"),
    "B59 a norm of 0": (settings(federated={"max_update_norm": 0}), ConfigError, "max_update_norm"),
    "B59 a norm of NaN": (settings(federated={"max_update_norm": float("nan")}), ConfigError, "max_update_norm"),
    "B59 a cap of 0 examples": (settings(federated={"max_client_examples": 0}), ConfigError, "max_client_examples"),
    "B59 epsilon, delta and C, of rules that are not there": (
        settings(privacy={"epsilon": 0}),
        ConfigError,
        "unknown key",
    ),
    "B59 an f that the round's updates do not bear": (
        settings(federated={"aggregation_method": "krum", "aggregation_options": {"f": 5}, "clients_per_round": 10}),
        ConfigError,
        r"needs at least 13 updates \(n >= 2 f \+ 3\), and a round may close with 10",
    ),
    "B59 an f of another rule": (
        settings(federated={"aggregation_options": {"f": 5}}),
        ConfigError,
        "fedavg has no option 'f'",
    ),
    "B59 a momentum of AdamW": (
        settings(training={"sgd_momentum": 0.9}),
        ConfigError,
        'is of SGD, and local_optimizer is "adamw"',
    ),
    "B59 a momentum of 1": (
        settings(training={"local_optimizer": "sgd", "sgd_momentum": 1.0}),
        ConfigError,
        "training.sgd_momentum: got 1.0, should be less than 1",
    ),
    "B59 an unknown local method": (
        settings(federated={"local_method": "prox"}),
        ConfigError,
        "did you mean fedprox",
    ),
    "B59 a mu of fedavg": (
        settings(federated={"local_method_options": {"mu": 0.1}}),
        ConfigError,
        "federated.local_method_options: fedavg has no option 'mu'; it has none",
    ),
    "B59 a mu below 0": (
        settings(federated={"local_method": "fedprox", "local_method_options": {"mu": -0.1}}),
        ConfigError,
        "fedprox: need mu >= 0, got -0.1",
    ),
    "B59 a mu that is a name": (
        settings(federated={"local_method": "fedprox", "local_method_options": {"mu": "small"}}),
        ConfigError,
        "fedprox: need mu >= 0, got 'small'",
    ),
    "B59 fednova with a median": (
        settings(
            federated={"local_method": "fednova", "aggregation_method": "median"},
        ),
        ConfigError,
        r'"fednova" averages by itself, aggregation_method "median" would not be used; set aggregation_method "fedavg"',
    ),
    "B59 fednova with flexlora": (
        settings(federated={"local_method": "fednova", "lora_aggregation": "flexlora"}),
        ConfigError,
        r'"fednova" averages by itself, lora_aggregation "flexlora" would not be used; set lora_aggregation "fedit"',
    ),
    "B59 fednova in mode async": (
        settings(federated={"local_method": "fednova", "mode": "async"}),
        ConfigError,
        'federated.local_method: "fednova" needs a cohort that trained from one version',
    ),
    "B59 plain SGD is to keep its moments": (
        settings(training={"local_optimizer": "sgd", "optimizer_state": "keep"}),
        ConfigError,
        'SGD without momentum has nothing to keep; set it to "reset"',
    ),
    "B59 moments are kept of factors that are trained in turns": (
        settings(training={"optimizer_state": "keep"}, federated={"lora_aggregation": "rolora"}),
        ConfigError,
        '"keep" has one count of steps for all moments, and the factors are trained in turns',
    ),
    **{
        f"B59 feddyn with {name} {value}": (
            settings(federated={"local_method": "feddyn", "weighting": "uniform"} | {name: value}),
            ConfigError,
            f'"feddyn" does not go with {name} "{value}": .*; set {name} "{needed}" first',
        )
        for name, value, needed in (
            ("server_optimizer", "nesterov", "none"),
            ("weighting", "examples", "uniform"),
            ("upload_codec", "int4", "fp32"),
        )
    },
    "B59 feddyn with a step of another size": (
        settings(federated={"local_method": "feddyn", "weighting": "uniform", "server_optimizer_options": {"lr": 1.5}}),
        ConfigError,
        '"feddyn" does not go with server_optimizer_options {"lr": 1.5}',
    ),
    "B59 feddyn with a median": (
        settings(federated={"local_method": "feddyn", "weighting": "uniform", "aggregation_method": "median"}),
        ConfigError,
        '"feddyn" averages by itself',
    ),
    "B59 feddyn in mode async": (
        settings(federated={"local_method": "feddyn", "weighting": "uniform", "mode": "async"}),
        ConfigError,
        '"feddyn" needs a cohort that trained from one version',
    ),
    "B59 an alpha of 0": (
        settings(
            federated={"local_method": "feddyn", "weighting": "uniform", "local_method_options": {"alpha": 0}},
        ),
        ConfigError,
        "feddyn: need alpha > 0, got 0",
    ),
    **{
        f"B59 {name} with {what}": (
            settings(**changed | {"federated": changed["federated"] | {"lora_aggregation": name}}),
            ConfigError,
            says,
        )
        for name, what, changed, says in (
            (
                "fedex",
                "deltas",
                {"federated": {"download_codec": "int4"}},
                'go with download_codec "int4": what it loses',
            ),
            ("fedex", "a median", {"federated": {"aggregation_method": "median"}}, '"fedex" averages by itself'),
            (
                "fedex",
                "async",
                {"federated": {"mode": "async"}},
                '"fedex" needs a cohort that trained from one version',
            ),
            ("fedex", "an option", {"federated": {"lora_aggregation_options": {"lam": 1}}}, "has no option 'lam'"),
            (
                "flora",
                "deltas",
                {"federated": {"download_codec": "int4"}},
                'go with download_codec "int4": what it loses',
            ),
            (
                "fed_sb",
                "deltas",
                {"federated": {"download_codec": "int4"}},
                'go with download_codec "int4": what takes the place of B and A',
            ),
            ("fed_sb", "two rounds", {"federated": {"num_rounds": 2}}, "trains R from round 3 on, and num_rounds is 2"),
            ("fed_sb", "a median", {"federated": {"aggregation_method": "median"}}, '"fed_sb" averages by itself'),
            ("fed_sb", "async", {"federated": {"mode": "async"}}, '"fed_sb" needs a cohort that trained from one'),
            ("fed_sb", "an option", {"federated": {"lora_aggregation_options": {"lam": 1}}}, "has no option 'lam'"),
            ("fed_sb", "no gain", {"federated": {"lora_aggregation_options": {"gain": 0}}}, "need gain > 0, got 0"),
            (
                "fed_sb",
                "ranks",
                {"federated": {}, "lora": {"rank_per_client": {"client_0": 4}}},
                "set federated.lora_aggregation to flexlora, flora or hetlora",
            ),
            (
                "fed_sb",
                "moments of biases",
                {"federated": {}, "lora": {"bias": "all"}, "training": {"optimizer_state": "keep"}},
                "biases are trained for longer than R",
            ),
            ("fed_sb", "scaffold", {"federated": {"local_method": "scaffold"}}, '"scaffold" averages by itself'),
            ("flora", "momentum", {"federated": {"server_optimizer": "avgm"}}, 'set server_optimizer "none" first'),
            ("flora", "feedback", {"federated": {"upload_codec": "sign"}}, "error feedback of upload_codec"),
            ("flora", "moments", {"federated": {}, "training": {"optimizer_state": "keep"}}, "begin anew in each"),
            ("flora", "a seed below 0", {"federated": {"lora_aggregation_options": {"seed": -1}}}, "seed"),
        )
    },
    **{
        f"B59 scaffold with {what}": (
            settings(
                training={"local_optimizer": "sgd"} | training, federated={"local_method": "scaffold"} | federated
            ),
            ConfigError,
            says,
        )
        for what, training, federated, says in (
            (
                "AdamW",
                {"local_optimizer": "adamw"},
                {},
                'which local_optimizer "adamw" does not tell; set .* "sgd" first',
            ),
            ("momentum", {"sgd_momentum": 0.9}, {}, "which sgd_momentum 0.9 hides; set sgd_momentum 0 first"),
            ("fp16", {"precision": "fp16"}, {}, "which fp16 hides, as it may skip steps"),
            ("deltas", {}, {"download_codec": "int4"}, '"scaffold" does not go with download_codec "int4"'),
            ("a codec", {}, {"upload_codec": "int4"}, '"scaffold" does not go with upload_codec "int4"'),
            ("a median", {}, {"aggregation_method": "median"}, '"scaffold" averages by itself'),
            ("flexlora", {}, {"lora_aggregation": "flexlora"}, '"scaffold" averages by itself'),
            ("async", {}, {"mode": "async"}, '"scaffold" needs a cohort that trained from one version'),
            ("an option", {}, {"local_method_options": {"mu": 1}}, "scaffold has no option 'mu'; it has none"),
        )
    },
    "B60 an adapter edited by hand": (edited_blob, RemoteProtocolError, "BLOB"),
}


@pytest.mark.parametrize("row", ROWS)
def test_refused(tmp_path: Path, row: str) -> None:
    act, kind, says = ROWS[row]
    with pytest.raises(kind, match=says) as caught:
        act(tmp_path / "folder")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("row", ["B56 an empty list, and one that is damaged while a coordinator runs"])
def test_the_list_that_was_good_is_kept(tmp_path: Path, row: str) -> None:
    assert AllowList(tmp_path).name("n" * 40) is None
    allow(PublicKey("north", "n" * 40), tmp_path)
    names = AllowList(tmp_path)
    (tmp_path / "allowed.json").write_text(TWICE)
    with pytest.raises(ConfigError):
        names.reload()
    assert names.name("n" * 40) == "north"
