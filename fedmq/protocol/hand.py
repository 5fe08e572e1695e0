"""The tasks in a worker's hand: a group that came together, and how far each of it is.

The trainer does a group whole, because numbers depend on what is computed beside them, and answers for
each task of it. The group is over when each of them is judged.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any, Literal

from fedmq.protocol.messages import Task

Activity = Literal["idle", "fetching", "working", "uploading"]


@dataclass
class Hand:
    """Empty when the worker is free.

    Attributes:
      group: the tasks as they came, until all are over.
      tasks: those of them that are not over, by name.
      owed: those of `tasks` that the trainer has not answered for.
      unwanted: those of `owed` that were cancelled.
      answers: evaluations and texts that are not judged yet.
      fetching: whether the adapter that they start from is still to come.
      step, total_steps: how far the trainer is.
      deadline_at: monotonic seconds after which what is owed is not wanted any more; None = no deadline.
    """

    group: tuple[Task, ...] = ()
    tasks: dict[str, Task] = field(default_factory=dict)
    owed: set[str] = field(default_factory=set)
    unwanted: set[str] = field(default_factory=set)
    answers: dict[str, Any] = field(default_factory=dict)
    fetching: bool = False
    step: int = 0
    total_steps: int = 0
    deadline_at: float | None = None

    @classmethod
    def of(cls, group: tuple[Task, ...], made: Container[str]) -> Hand:
        """A new group; what is `made` already is not owed."""
        owed = {task.task for task in group if task.task not in made}
        return cls(
            group, {task.task: task for task in group}, owed, fetching=bool(owed) and group[0].adapter is not None
        )

    @property
    def activity(self) -> Activity:
        """What the worker does, in one word."""
        if not self.tasks:
            return "idle"
        if self.fetching:
            return "fetching"
        return "working" if self.owed else "uploading"

    @property
    def first(self) -> str | None:
        """The name of one task, if there is any."""
        return next(iter(self.tasks), None)

    @property
    def in_vain(self) -> bool:
        """Whether nobody wants anything of what is still to be done."""
        return bool(self.owed) and self.owed == self.unwanted

    def to_do(self) -> list[Task]:
        """The tasks that are owed."""
        return [task for name, task in self.tasks.items() if name in self.owed]

    def made(self, task: str) -> None:
        """The trainer has answered."""
        self.owed.discard(task)
        self.unwanted.discard(task)

    def drop(self, task: str) -> None:
        """It is over."""
        self.made(task)
        self.tasks.pop(task, None)
        self.answers.pop(task, None)
        self.fetching = self.fetching and bool(self.owed)
        if not self.tasks:
            self.group, self.step, self.total_steps, self.deadline_at = (), 0, 0, None

    def validate(self, outbox: Container[str]) -> None:
        """Check every invariant."""
        names = {task.task for task in self.group}
        assert self.unwanted <= self.owed <= set(self.tasks) <= names
        assert all((task in outbox or task in self.answers) != (task in self.owed) for task in self.tasks), self
        assert set(self.answers) <= set(self.tasks) and bool(self.group) == bool(self.tasks)
        assert self.owed or not self.fetching
