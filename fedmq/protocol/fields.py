"""The kinds of field that messages are made of, each with its limits."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

MAX_CLIENTS_PER_WORKER = 1024
MAX_TEXT = 256
#: Clients that are trained together.
MAX_GROUP = 64
#: of the adapters that one delta applies to
MAX_BASES = 16
#: Results that a worker names at once; it offers the others all the same.
MAX_OUTBOX = 64
#: 16 texts of 4,000 characters fit into a header, whatever the characters.
MAX_PROMPTS = 16
MAX_CONTINUATION = 4000

CLOSED = ConfigDict(extra="forbid", allow_inf_nan=False)

Count = Annotated[int, Field(ge=0, lt=2**53)]
Seconds = Annotated[float, Field(ge=0)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Token = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
#: A client id is also the name of a folder: no separators, no leading dot, a fixed prefix.
CLIENT_ID = r"^client_[A-Za-z0-9_.-]{1,57}$"
ClientId = Annotated[str, Field(pattern=CLIENT_ID)]
WORKER_NAME = r"^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,62}$"
WorkerName = Annotated[str, Field(pattern=WORKER_NAME)]
TaskId = Annotated[str, Field(pattern=r"^[a-z]{1,16}-[0-9]{1,9}-[A-Za-z0-9_.-]{1,64}-[0-9]{1,6}$")]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
Continuation = Annotated[str, Field(max_length=MAX_CONTINUATION)]
FailureCode = Literal["CRASHED", "OOM", "DATA", "MODEL", "NONFINITE", "CANCELLED", "ERROR"]
#: UPLOAD asks for the bytes; the others are final.
VerdictCode = Literal["UPLOAD", "ACCEPTED", "DUPLICATE", "LATE", "UNKNOWN_TASK", "INVALID"]
