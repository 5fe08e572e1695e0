"""The list of workers that may join: changes are followed, and damage lets nobody in and nobody out."""

from __future__ import annotations

import json
import os
import resource
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fedmq.errors import ConfigError
from fedmq.transport.allowed import AllowList, allow, allowed, revoke
from fedmq.transport.keys import PublicKey, new_pair

NORTH, SOUTH = PublicKey("north", "n" * 40), PublicKey("south", "s" * 40)


def test_a_list_that_is_not_there_allows_nobody(tmp_path: Path) -> None:
    assert AllowList(tmp_path).name(NORTH.z85) is None and allowed(tmp_path) == []


def test_a_running_coordinator_follows(tmp_path: Path) -> None:
    names = AllowList(tmp_path)
    allow(NORTH, tmp_path)
    assert names.name(NORTH.z85) is None, "not before it looks"
    assert names.reload() == [] and names.name(NORTH.z85) == "north"
    allow(SOUTH, tmp_path)
    revoke("north", tmp_path)
    assert names.reload() == ["north"]
    assert (names.name(NORTH.z85), names.name(SOUTH.z85)) == (None, "south")
    assert names.reload() == []
    (tmp_path / "allowed.json").unlink()
    assert names.reload() == ["south"]


@pytest.mark.parametrize("mode", [0o664, 0o666])
def test_a_list_that_others_can_write_is_refused(mode: int, tmp_path: Path) -> None:
    allow(NORTH, tmp_path)
    (tmp_path / "allowed.json").chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        AllowList(tmp_path)


def test_the_list_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        allow(NORTH, tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "allowed.json").stat().st_mode) == 0o600


def test_a_list_that_cannot_be_read_for_a_moment_is_read_later(tmp_path: Path) -> None:
    allow(NORTH, tmp_path)
    names = AllowList(tmp_path)
    revoke("north", tmp_path)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, most))
    try:
        with pytest.raises(ConfigError, match="Too many open files"):
            names.reload()
        assert names.reload() == [], "it is complained of once"
        assert names.name(NORTH.z85) == "north"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert names.reload() == ["north"] and names.name(NORTH.z85) is None


def test_changes_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    keys = [PublicKey(f"w{k}", f"{k:04d}" * 10) for k in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: allow(key, tmp_path), keys))
    assert allowed(tmp_path) == sorted(keys)


def test_allowing_twice_changes_nothing(tmp_path: Path) -> None:
    allow(NORTH, tmp_path)
    allow(NORTH, tmp_path)
    assert allowed(tmp_path) == [NORTH]


@pytest.mark.parametrize("other", [PublicKey("north", "x" * 40), PublicKey("south", NORTH.z85)])
def test_a_name_has_one_key_and_a_key_one_name(other: PublicKey, tmp_path: Path) -> None:
    allow(NORTH, tmp_path)
    with pytest.raises(ConfigError, match="north"):
        allow(other, tmp_path)
    assert allowed(tmp_path) == [NORTH]


def test_revoking_whom_nobody_knows_names_those_that_are(tmp_path: Path) -> None:
    allow(NORTH, tmp_path)
    with pytest.raises(ConfigError, match=r"no worker 'nort' is allowed \(allowed: north\)"):
        revoke("nort", tmp_path)


def test_revoking_in_a_folder_that_is_not_there_makes_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder; expected the coordinator's"):
        revoke("north", tmp_path / "kyes")
    assert not (tmp_path / "kyes").exists()


ENTRY = {"name": "north", "public": "n" * 40}
DAMAGED = {
    "no JSON": "{",
    "no list": json.dumps({"allowed": {}}),
    "another shape": json.dumps([ENTRY]),
    "a name twice": json.dumps({"allowed": [ENTRY, ENTRY | {"public": "x" * 40}]}),
    "a key twice": json.dumps({"allowed": [ENTRY, ENTRY | {"name": "south"}]}),
    "no key": json.dumps({"allowed": [{"name": "north", "public": ""}]}),
    "nested without end": "[" * 100_000,
    "a path for a name": json.dumps({"allowed": [ENTRY | {"name": "../x"}]}),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_list_is_refused_at_the_start_and_later_the_old_one_stays(how: str, tmp_path: Path) -> None:
    allow(SOUTH, tmp_path)
    names = AllowList(tmp_path)
    (tmp_path / "allowed.json").write_text(DAMAGED[how])
    with pytest.raises(ConfigError, match="damaged"):
        names.reload()
    assert names.name(SOUTH.z85) == "south" and names.name(NORTH.z85) is None
    assert names.reload() == [], "it is complained of once"
    for use in (AllowList, allowed, lambda folder: allow(NORTH, folder), lambda folder: revoke("south", folder)):
        with pytest.raises(ConfigError, match="damaged"):
            use(tmp_path)


def test_real_keys_go_through(tmp_path: Path) -> None:
    pair = new_pair("north", tmp_path)
    allow(pair.public, tmp_path)
    assert AllowList(tmp_path).name(pair.public.z85) == "north"
