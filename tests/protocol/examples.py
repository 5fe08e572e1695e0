"""One example of every message, built from its types, so that a new message is tested the day it is born."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any

from fedmq.protocol import fields
from fedmq.protocol import messages as m
from fedmq.protocol import trainer_link as link

DIRECTIONS = {
    "control to coordinator": m.TO_COORDINATOR,
    "control to worker": m.TO_WORKER,
    "data to coordinator": m.DATA_TO_COORDINATOR,
    "data to worker": m.DATA_TO_WORKER,
    "agent to trainer": link.TO_TRAINER,
    "trainer to agent": link.TO_AGENT,
}
TYPES = [(direction, kind) for direction, kinds in DIRECTIONS.items() for kind in kinds]
_BY_KIND: list[tuple[Any, Any]] = [
    (fields.Count, 7),
    (fields.Seconds, 1.5),
    (fields.Digest, "ab" * 32),
    (fields.Token, "cd" * 16),
    (fields.ClientId, "client_3"),
    (fields.WorkerName, "worker-1"),
    (fields.TaskId, "train-2-client_3-0"),
    (bool, True),
    (int, 4),
    (float, -0.25),
    (str, "text"),
]


def example(kind: Any) -> Any:
    """A value of this type: of a message, one of its fields, or a part of these."""
    for known, value in _BY_KIND:
        if kind == known:
            return value
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return example(arguments[0])
    if origin is typing.Literal:
        return arguments[0]
    if origin in (typing.Union, types.UnionType):
        return example(next(a for a in arguments if a is not types.NoneType))
    if origin is tuple:
        return (example(arguments[0]),)
    assert dataclasses.is_dataclass(kind), f"no example of {kind}"
    hints = typing.get_type_hints(kind, include_extras=True)
    return kind(**{field.name: example(hints[field.name]) for field in dataclasses.fields(kind)})
