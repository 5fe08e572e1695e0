"""What a worker says of its work, in its log and in the shell that it was started in."""

from __future__ import annotations

import logging
from typing import Any

from fedmq.protocol import messages as m

log = logging.getLogger("fedmq.worker")


def log_message(message: Any) -> None:
    """Log a control message that was sent or received, if `describe` has a line about it."""
    if (line := describe(message)) is not None:
        log.info("%s", line)


def describe(message: Any) -> str | None:
    """One line about a control message that was sent or received; None for those that only keep the link alive.

    Example:
      >>> describe(m.Verdict("train-1-client_0-0", "ACCEPTED", ""))
      'train-1-client_0-0: accepted'
    """
    match message:
        case m.Welcome(run=run, spec=spec):
            return f"connected to run {run[:8]} ({spec.experiment_name}); loading base and data"
        case m.Ready(clients=clients, device=device):
            return f"ready on {device}: {len(clients)} clients, {sum(c.num_examples for c in clients)} examples"
        case m.Tasks(tasks=tasks):
            return f"{', '.join(task.task for task in tasks)}: begun"
        case m.Cancel(task=task, reason=reason):
            return f"{task}: cancelled ({reason})"
        case m.Offer(task=task, num_examples=examples, train_loss=loss, train_seconds=seconds) if examples:
            return f"{task}: trained on {examples} texts in {seconds:.1f} s, loss {loss:.4f}"
        case m.Evaluated(task=task, loss_sum=loss_sum, num_tokens=num_tokens):
            return f"{task}: loss {loss_sum / num_tokens:.4f} over {num_tokens} tokens"
        case m.TaskFailed(task=task, code=code, text=text):
            return f"{task}: {code} ({text})"
        case m.Verdict(task=task, code=code, text=text) if code != "UPLOAD":
            return f"{task}: {code.lower().replace('_', ' ')}" + (f" ({text})" if text else "")
    return None
