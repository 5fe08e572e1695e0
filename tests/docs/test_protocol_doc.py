"""docs/protocol.md says what the code does: every message, field, code, limit, timer, phase and socket option."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Iterable
from contextlib import closing
from enum import Enum
from typing import Any, get_args

import pytest
import zmq
from doc_tables import Rows, quoted, section, tables, text_of

from fedmq import recipe
from fedmq.protocol import fields, frames, messages, trainer_link, work
from fedmq.protocol.phases import PHASES
from fedmq.protocol.worker_state import FINAL, LINKS
from fedmq.transport.zeromq import ZmqCoordinatorTransport, ZmqWorkerTransport

TEXT = text_of("protocol.md")
DIRECTIONS = {
    "Control plane, worker to coordinator": messages.TO_COORDINATOR,
    "Control plane, coordinator to worker": messages.TO_WORKER,
    "Data plane, worker to coordinator": messages.DATA_TO_COORDINATOR,
    "Data plane, coordinator to worker": messages.DATA_TO_WORKER,
    "Pipe, agent to trainer": trainer_link.TO_TRAINER,
    "Pipe, trainer to agent": trainer_link.TO_AGENT,
}
RECORDS = (
    *(messages.BlobRef, messages.DeltaRef, messages.Folded, messages.HostedClient, messages.Task),
    *(work.InitWork, work.TrainWork, work.EvaluateWork, work.GenerateWork),
    trainer_link.Source,
)
SPECS = (
    *(recipe.RunSpec, recipe.ModelSpec, recipe.LoRASpec, recipe.LocalMethodSpec, recipe.Part),
    *(recipe.TrainingRecipe, recipe.DataSpec, recipe.GenerationSpec, recipe.CodecSpec),
)


def rows_under(heading: str, position: int = 0) -> Rows:
    """The rows of one table under a heading, without its head."""
    return list(tables(section(TEXT, heading)))[position][1:]


def documented(heading: str) -> dict[str, dict[str, str]]:
    """type -> {field: kind}, in order."""
    found: dict[str, dict[str, str]] = {}
    for name, field, kind, meaning in rows_under(heading):
        if name:
            (current,) = quoted(name)
            assert current not in found, f"{current} is there twice"
            assert meaning, f"{current} has no meaning"
            found[current] = {}
        else:
            (field_name,) = quoted(field)
            assert field_name not in found[current], f"{current}.{field_name} is there twice"
            found[current][field_name] = kind
    return found


def worded(annotation: str) -> str:
    """A field's type as the tables word it.

    Example:
      >>> worded("Annotated[tuple[TaskId, ...], Field(max_length=64)]"), worded("str | None")
      ('list of TaskId', 'str or nil')
    """
    annotation = re.sub(r"^Annotated\[(.*), Field\(.*\)\]$", r"\1", annotation)
    annotation = re.sub(r"^tuple\[(\w+), \.\.\.\]$", r"list of \1", annotation)
    annotation = re.sub(r"^(\w+) \| None$", r"\1 or nil", annotation)
    if annotation.startswith("Literal["):
        names = re.findall(r"[\"'](\w+)[\"']", annotation)
        annotation = ("one of " if len(names) > 1 else "") + ", ".join(names)
    return annotation


def in_code(kinds: Iterable[type]) -> dict[type, dict[str, str]]:
    """type -> {field: kind}, in the order on the wire."""
    return {kind: {field.name: worded(str(field.type)) for field in dataclasses.fields(kind)} for kind in kinds}  # type: ignore[arg-type]


@pytest.mark.parametrize("heading", DIRECTIONS)
def test_messages(heading: str) -> None:
    expected = {frames.tag(kind): list(found.items()) for kind, found in in_code(DIRECTIONS[heading]).items()}
    assert {name: list(found.items()) for name, found in documented(heading).items()} == expected


def test_records() -> None:
    expected = {kind.__name__: list(found.items()) for kind, found in in_code(RECORDS).items()}
    found = documented("Records inside messages")
    assert {name: list(fields.items()) for name, fields in found.items()} == expected


def test_specs() -> None:
    found = {quoted(name)[0]: quoted(cell) for name, cell in rows_under("Records inside messages", 1)}
    assert found == {kind.__name__: list(names) for kind, names in in_code(SPECS).items()}


def test_no_record_is_forgotten() -> None:
    known = {kind for kinds in DIRECTIONS.values() for kind in kinds} | set(RECORDS) | set(SPECS)
    for module in (messages, work, trainer_link, recipe):
        for name, value in vars(module).items():
            if isinstance(value, type) and dataclasses.is_dataclass(value):
                assert value in known, f"{module.__name__}.{name} is in no table"


def test_every_kind_of_field_is_explained() -> None:
    names = {name for row in rows_under("Kinds of field") for name in row[0].split(", ")}
    names |= {kind.__name__ for kind in (*RECORDS, *SPECS)}
    for kinds in (*DIRECTIONS.values(), RECORDS):
        for kind in kinds:
            for field in dataclasses.fields(kind):
                if not str(field.type).startswith("Literal["):
                    assert worded(str(field.type)).removeprefix("list of ").removesuffix(" or nil") in names


def test_codes() -> None:
    verdicts, failures, rejects = (rows_under("Codes", position) for position in range(3))
    assert [row[0] for row in verdicts] == list(get_args(fields.VerdictCode))
    assert [row[0] for row in verdicts if row[1] == "yes"] == list(FINAL)
    assert [row[0] for row in failures] == list(get_args(fields.FailureCode))
    assert f"one of {', '.join(row[0] for row in rejects)}" == in_code([messages.Reject])[messages.Reject]["code"]


@pytest.mark.parametrize("row", rows_under("Limits") + rows_under("Timers"), ids=lambda row: row[0])
def test_limits_and_timers(row: list[str]) -> None:
    """A constant is named as MODULE.NAME or MODULE.CLASS.NAME; a setting has its default in the config."""
    value, where = row[1], row[2]
    if where.startswith(("set", "setting")):
        return
    (path,) = quoted(where)
    assert resolve(path) == float(value.split()[0].replace(",", ""))


def resolve(path: str) -> Any:
    """The object at fedmq.PATH."""
    parts = ["fedmq", *path.split(".")]
    for split in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        for name in parts[split:]:
            found = getattr(found, name)
        return found
    raise AssertionError(f"no fedmq.{path}")


@pytest.mark.parametrize(
    ("heading", "transitions"), [("The coordinator's phases", PHASES), ("The worker's link", LINKS)]
)
def test_transitions(heading: str, transitions: dict[Enum, set[Enum]]) -> None:
    found = {quoted(row[0])[0]: set(quoted(row[1])) for row in rows_under(heading)}
    assert found == {state.name: {after.name for after in nexts} for state, nexts in transitions.items()}


def test_socket_options(monkeypatch: pytest.MonkeyPatch) -> None:
    set_options: dict[int, dict[str, int]] = {}
    original = zmq.Socket.set

    def recording(socket: zmq.Socket[bytes], option: int, value: int) -> None:
        set_options.setdefault(id(socket), {})[zmq.SocketOption(option).name] = value
        original(socket, option, value)

    monkeypatch.setattr(zmq.Socket, "set", recording)
    found: dict[tuple[str, str], dict[str, int]] = {}
    with (
        closing(ZmqCoordinatorTransport("tcp://127.0.0.1:0")) as coordinator,
        closing(ZmqWorkerTransport(coordinator.address)) as worker,
    ):
        worker.dial_data(coordinator.data_port)
        for end, transport in (("coordinator", coordinator), ("worker", worker)):
            for plane, socket in transport._sockets.items():
                found[end, plane] = set_options[id(socket)]
                found[end, plane].pop("USE_FD", None)  # a descriptor, no constant
    expected: dict[tuple[str, str], dict[str, int]] = {key: {} for key in found}
    for option, end, control, data, why in rows_under("Socket options"):
        assert why
        for each in ("coordinator", "worker") if end == "both" else (end,):
            for plane, value in (("control", control), ("data", data)):
                expected[each, plane][quoted(option)[0]] = int(value)
    assert found == expected
