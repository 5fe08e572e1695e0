"""Key files: who can read them, what is refused, and that a secret does not show."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedmq.errors import ConfigError
from fedmq.transport.keys import coordinator_pair, fingerprint, new_pair, read_pair, read_public


@pytest.fixture
def open_umask() -> Iterator[None]:
    """The least careful one: whatever is private is so by our own doing."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
def test_a_new_pair_is_private_and_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    pair = new_pair("north", folder)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "north.key", folder / "north.pub")]
    assert modes == [0o700, 0o600, 0o644]
    assert read_pair(folder / "north.key").secret.z85 == pair.secret.z85
    assert read_public(folder / "north.pub") == pair.public
    assert pair.secret.z85 not in (folder / "north.pub").read_text()
    assert new_pair("south", folder).public.z85 != pair.public.z85


def test_a_secret_does_not_print_itself(tmp_path: Path) -> None:
    pair = new_pair("north", tmp_path)
    assert pair.secret.z85 not in f"{pair} {pair!r} {pair.secret} {vars(pair.secret).keys()}"


def test_a_key_is_never_replaced(tmp_path: Path) -> None:
    new_pair("north", tmp_path)
    before = (tmp_path / "north.key").read_bytes()
    with pytest.raises(ConfigError, match=r"north\.key exists: a key is never replaced"):
        new_pair("north", tmp_path)
    assert (tmp_path / "north.key").read_bytes() == before


@pytest.mark.parametrize("name", ["", "../north", ".north", "a/b", "north\n", "n" * 64, "ñorth"])
def test_names_that_could_be_something_else(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="key name"):
        new_pair(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def edit(path: Path, **changed: str) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def as_link(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to("real")


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "others can read it": (lambda path: path.chmod(0o640), "chmod 600"),
    "others can replace it": (lambda path: path.parent.chmod(0o770), "chmod go-w"),
    "a link": (as_link, "symbolic link"),
    "gone": (lambda path: path.unlink(), "No such file"),
    "no JSON": (lambda path: path.write_text("north"), "no key file, or damaged"),
    "a number": (lambda path: path.write_text("7"), "no key file, or damaged"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-20]), "no key file, or damaged"),
    "a field too many": (lambda path: edit(path, note="mine"), "no key file, or damaged"),
    "a short key": (lambda path: edit(path, public="x" * 39), "no key file, or damaged"),
    "a bad name": (lambda path: edit(path, name="../x"), "no key file, or damaged"),
    "a key beyond 32 bytes": (lambda path: edit(path, secret="#" * 40), "no key file, or damaged"),
    "a key that is none": (lambda path: edit(path, secret="~" * 40), "no key file, or damaged"),
    "nested without end": (lambda path: path.write_text("[" * 4000), "no key file, or damaged"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "a file of yours"),
    "a pipe": (lambda path: (path.unlink(), os.mkfifo(path, 0o600)), "a file of yours"),
    "another half": (lambda path: edit(path, public="0" * 40), "halves"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_secret_keys_that_cannot_be_used(how: str, tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    pair = new_pair("north", folder)
    spoil, says = SPOILT[how]
    spoil(folder / "north.key")
    with pytest.raises(ConfigError, match=says) as refusal:
        read_pair(folder / "north.key")
    assert pair.secret.z85 not in str(refusal.value)


def test_a_secret_key_is_not_taken_for_a_public_one(tmp_path: Path) -> None:
    new_pair("north", tmp_path)
    (tmp_path / "north.key").rename(tmp_path / "given.pub")
    with pytest.raises(ConfigError, match="it stays where it was made"):
        read_public(tmp_path / "given.pub")


def test_a_public_key_may_have_any_name(tmp_path: Path) -> None:
    pair = new_pair("secretariat", tmp_path)
    assert read_public(tmp_path / "secretariat.pub") == pair.public


def test_where_half_a_pair_cannot_be_made_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "north.pub").write_text("theirs")
    with pytest.raises(ConfigError, match=r"north\.pub exists"):
        new_pair("north", tmp_path)
    assert not (tmp_path / "north.key").exists() and (tmp_path / "north.pub").read_text() == "theirs"


def test_a_coordinators_folder_holds_one_secret_key(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    with pytest.raises(ConfigError, match="`fedmq keys new coordinator --dir"):
        coordinator_pair(folder)
    pair = new_pair("coordinator", folder)
    assert coordinator_pair(folder).public == pair.public
    with pytest.raises(ConfigError, match=r"coordinator\.key is a file: expected the folder that"):
        coordinator_pair(folder / "coordinator.key")
    new_pair("north", folder)
    with pytest.raises(ConfigError, match=r"coordinator\.key, north\.key: workers' secret keys stay on their hosts"):
        coordinator_pair(folder)


def test_a_fingerprint_is_short_and_of_the_whole_key() -> None:
    keys = ["0" * 40, "0" * 39 + "1"]
    assert all(len(fingerprint(key)) == 16 for key in keys) and len(set(map(fingerprint, keys))) == 2
