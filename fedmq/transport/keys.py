"""Key files: a host makes its own pair, and only NAME.pub leaves it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import struct
from pathlib import Path
from typing import Any, NamedTuple

import zmq
from zmq.utils import z85

from fedmq import atomic
from fedmq.errors import ConfigError
from fedmq.protocol.fields import WORKER_NAME


class Secret:
    """A secret key that does not print itself."""

    def __init__(self, z85: str) -> None:
        self.z85 = z85

    def __repr__(self) -> str:
        return "<secret>"


class PublicKey(NamedTuple):
    """What a NAME.pub file holds: the name, and a Curve25519 key in Z85 (40 characters)."""

    name: str
    z85: str


class KeyPair(NamedTuple):
    """What a NAME.key file holds."""

    public: PublicKey
    secret: Secret


def fingerprint(z85: str) -> str:
    """The first 16 hex digits of the key's SHA-256, for people to compare.

    Example:
      >>> fingerprint("rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7")
      '84112785d1092a7e'
    """
    return hashlib.sha256(z85.encode()).hexdigest()[:16]


def new_pair(name: str, folder: Path) -> KeyPair:
    """Make a pair: folder/NAME.key, which its owner alone can read, and folder/NAME.pub.

    Raises:
      ConfigError: the name cannot be used, one of the files exists, or the folder cannot be written.
    """
    if not re.fullmatch(WORKER_NAME, name):
        raise ConfigError(f"key name {name!r}: at most 63 letters, digits, dots, dashes, underscores; no leading dot")
    public, secret = (key.decode() for key in zmq.curve_keypair())
    pair = KeyPair(PublicKey(name, public), Secret(secret))
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _create(folder / f"{name}.key", 0o600, {"name": name, "public": public, "secret": secret})
        try:
            _create(folder / f"{name}.pub", 0o644, {"name": name, "public": public})
        except OSError:
            (folder / f"{name}.key").unlink()
            raise
    except FileExistsError as error:
        raise ConfigError(f"{error.filename} exists: a key is never replaced; take another name or folder") from None
    except OSError as error:
        raise ConfigError(f"{folder}: no key can be written there ({error.strerror})") from None
    return pair


def read_public(path: Path) -> PublicKey:
    """Read a NAME.pub file.

    Raises:
      ConfigError: there is none, or it is no such file.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; expected a NAME.pub made by `fedmq keys new NAME`") from None
    if path.suffix == ".key" or b'"secret":' in content:
        raise ConfigError(f"{path} is a secret key: it stays where it was made; only NAME.pub is given away")
    return PublicKey(*parse_key(content, path, ("name", "public")))


def read_pair(path: Path) -> KeyPair:
    """Read a NAME.key file that nobody else can read or replace.

    Raises:
      ConfigError: there is none, it is no such file, or others have access.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        what = "is a symbolic link" if path.is_symlink() else error.strerror
        raise ConfigError(f"{path}: {what}; expected a NAME.key made by `fedmq keys new NAME`") from None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise ConfigError(f"{path}: a secret key has to be a file of yours that nobody else can read: chmod 600")
        if path.absolute().parent.stat().st_mode & 0o022:
            raise ConfigError(f"{path}: others can write to its folder, and so replace it: chmod go-w {path.parent}")
        content = os.read(fd, 4096)
    finally:
        os.close(fd)
    name, public, secret = parse_key(content, path, ("name", "public", "secret"))
    if zmq.curve_public(secret.encode()).decode() != public:
        raise ConfigError(f"{path} is damaged: its two halves do not belong together")
    return KeyPair(PublicKey(name, public), Secret(secret))


def coordinator_pair(folder: Path) -> KeyPair:
    """The one pair in a coordinator's folder.

    Raises:
      ConfigError: there is no folder, none or several in it, or it cannot be used.
    """
    if folder.is_file():
        raise ConfigError(f"{folder} is a file: expected the folder that `fedmq keys new coordinator` made")
    found = sorted(folder.glob("*.key"))
    if len(found) != 1:
        make = f"`fedmq keys new coordinator --dir {folder}` makes it"
        several = f"{', '.join(path.name for path in found)}: workers' secret keys stay on their hosts"
        raise ConfigError(f"{folder}: expected one secret key, the coordinator's; {several if found else make}")
    return read_pair(found[0])


def parse_key(content: bytes, path: Path, fields: tuple[str, ...]) -> list[str]:
    """The values of exactly these fields: the name, then keys.

    Raises:
      ConfigError: the content is something else.
    """
    try:
        value: Any = json.loads(content)
        found = [value[field] for field in fields]
        keys = [z85.decode(key) for key in found[1:]]
        if set(value) == set(fields) and re.fullmatch(WORKER_NAME, found[0]) and all(len(key) == 32 for key in keys):
            return found
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error):
        pass
    raise ConfigError(f"{path} is no key file, or damaged: expected what `fedmq keys new NAME` writes")


def _create(path: Path, mode: int, content: dict[str, str]) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with open(fd, "w") as file:
            json.dump(content, file, indent=2)
            file.write("\n")
            file.flush()
            atomic.sync(fd)
    except OSError:
        path.unlink()
        raise
    atomic.fsync(path.parent)
