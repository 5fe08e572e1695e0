"""The list of workers that may join: changes are followed, and damage lets nobody in and nobody out."""

from __future__ import annotations

import json
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


ENTRY = {"name": "north", "public": "n" * 40}
DAMAGED = {
    "no JSON": "{",
    "no list": json.dumps({"allowed": {}}),
    "another shape": json.dumps([ENTRY]),
    "a name twice": json.dumps({"allowed": [ENTRY, ENTRY | {"public": "x" * 40}]}),
    "a key twice": json.dumps({"allowed": [ENTRY, ENTRY | {"name": "south"}]}),
    "no key": json.dumps({"allowed": [{"name": "north", "public": ""}]}),
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
