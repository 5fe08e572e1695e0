"""The list of workers that may join, by key.

It is allowed.json in the coordinator's folder. A name in it is the worker's name: who has the key is that worker,
whatever it says of itself.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedmq import atomic
from fedmq.errors import ConfigError
from fedmq.transport.keys import PublicKey, parse_key

_LIST = "allowed.json"


class AllowList:
    """Who may join, by key. The file is changed by `fedmq keys` and followed while a coordinator runs.

    Args:
      folder: the coordinator's.

    Raises:
      ConfigError: the list is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / _LIST
        self._seen = self._failed = self._stamp()
        self._names = _load(self.path)

    def name(self, z85: str) -> str | None:
        """The worker that has this key; None for nobody."""
        return self._names.get(z85)

    def reload(self) -> list[str]:
        """Follow the file if it changed; the names that may not join any more.

        Raises:
          ConfigError: the new list is damaged; the old one stays, and is not complained of again.
        """
        stamp = self._stamp()
        if stamp == self._seen:
            return []
        try:
            names = _load(self.path)
        except ConfigError as error:
            # What is damaged stays so until it changes; what could not be read now is tried again.
            if not isinstance(error.__cause__, OSError):
                self._seen = stamp
            known, self._failed = self._failed == stamp, stamp
            if known:
                return []
            raise
        self._seen = stamp
        before, self._names = self._names, names
        return sorted(name for key, name in before.items() if self._names.get(key) != name)

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size


def allow(public: PublicKey, folder: Path) -> None:
    """Let the holder of a key join.

    Raises:
      ConfigError: the name or the key is there already with another.
    """
    with _locked(folder):
        names = _load(folder / _LIST)
        if names.get(public.z85, public.name) != public.name:
            raise ConfigError(f"this key is there already, under the name {names[public.z85]}")
        if public.name in names.values() and public.z85 not in names:
            raise ConfigError(f"another key has the name {public.name}: revoke that first, or make one of another name")
        _store(folder, names | {public.z85: public.name})


def revoke(name: str, folder: Path) -> None:
    """Let it join no more; a coordinator that runs drops it.

    Raises:
      ConfigError: nobody has that name, or there is no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; expected the coordinator's, where the allow-list is")
    with _locked(folder):
        names = _load(folder / _LIST)
        left = {key: other for key, other in names.items() if other != name}
        if left == names:
            known = ", ".join(sorted(names.values())) or "nobody"
            raise ConfigError(f"{folder}: no worker {name!r} is allowed (allowed: {known})")
        _store(folder, left)


def allowed(folder: Path) -> list[PublicKey]:
    """All that may join, by name.

    Raises:
      ConfigError: the list is damaged.
    """
    return sorted(PublicKey(name, key) for key, name in _load(folder / _LIST).items())


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One change at a time: a revocation must not be undone by an older list."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = open(folder / ".allowed.lock", "ab")  # noqa: SIM115
    except OSError as error:
        raise ConfigError(f"{folder / _LIST}: cannot be written ({error.strerror})") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _load(path: Path) -> dict[str, str]:
    """Key -> name. A list that is not there allows nobody."""
    try:
        with open(path, "rb") as file:
            found, content = os.fstat(file.fileno()), file.read()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise ConfigError(
            f"{path}: others could let anybody in: it has to be yours, and nobody else's to write: chmod 600"
        )
    try:
        value = json.loads(content)
        entries = value["allowed"]
        keys = [parse_key(json.dumps(entry).encode(), path, ("name", "public")) for entry in entries]
        names = {key: name for name, key in keys}
        if isinstance(entries, list) and len(names) == len(set(names.values())) == len(keys):
            return names
    except (ValueError, KeyError, TypeError, RecursionError, ConfigError):
        pass
    raise ConfigError(f"{path} is damaged: expected what `fedmq keys allow` writes, each name and each key once")


def _store(folder: Path, names: dict[str, str]) -> None:
    try:
        entries = [{"name": name, "public": key} for key, name in sorted(names.items())]
        atomic.write_json(folder / _LIST, {"allowed": entries}, mode=0o600)
    except OSError as error:
        raise ConfigError(f"{folder / _LIST}: cannot be written ({error.strerror})") from None
