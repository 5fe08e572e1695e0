"""The exception tree. Who is at fault is the type; the exit code follows from it.

    FedmqError                    exit 1   anything this package raises on purpose
    |-- ConfigError               exit 2   the user's configuration or command line
    |   |-- DataError             exit 2   the user's data: a missing file or column, an unreadable row
    |   `-- ModelError            exit 2   the user's base model: not found, no such target module
    |-- RunError                  exit 1   the run cannot go on: port in use, no worker, quorum lost
    |-- StorageError              exit 1   the run's folder: unreadable, locked, damaged
    |-- KeyRefused                exit 3   the coordinator does not allow this worker's key
    |-- ServerKeyMismatch         exit 5   whoever answers has not the coordinator's key
    |-- RemoteProtocolError       exit 1   a peer sent what the protocol does not allow
    |   `-- VersionMismatch       exit 4   a peer speaks another protocol version
    `-- LocalProtocolError        exit 1   we did (a bug of ours)

Every message is one line that says what, where, what was expected and what to do.
"""

from __future__ import annotations


class FedmqError(Exception):
    """Base of every error that fedmq raises on purpose."""

    exit_code = 1


class ConfigError(FedmqError):
    """The user's configuration or command line cannot be used."""

    exit_code = 2


class DataError(ConfigError):
    """The user's data cannot be used."""


class ModelError(ConfigError):
    """The user's base model cannot be used."""


class RunError(FedmqError):
    """The run cannot go on."""


class StorageError(FedmqError):
    """The run's folder cannot be used."""


class KeyRefused(FedmqError):
    """The coordinator does not allow this worker's key, or wants one."""

    exit_code = 3


class ServerKeyMismatch(FedmqError):
    """Whoever answers has not the secret of the server key that this worker was given."""

    exit_code = 5


class RemoteProtocolError(FedmqError):
    """A peer broke the protocol. `code` is a short stable name, never the peer's own text."""

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.code = code


class VersionMismatch(RemoteProtocolError):
    """A peer speaks another protocol version."""

    exit_code = 4


class LocalProtocolError(FedmqError):
    """We broke the protocol: a bug of fedmq."""
