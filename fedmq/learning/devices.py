"""Which device the setting `device` means here."""

from __future__ import annotations

import torch

from fedmq.errors import ConfigError


def resolve_device(name: str) -> tuple[str, str | None]:
    """The device to use for the setting `device`, and what to tell the user if it is another than asked.

    Raises:
      ConfigError: a device that was named exactly does not exist here.

    Example:
      >>> resolve_device("cpu")
      ('cpu', None)
    """
    kind, _, index = name.partition(":")
    if name == "cuda" and not torch.cuda.is_available():
        return "cpu", "no CUDA device: training on the CPU"
    if kind == "cuda" and (index or "0").isdigit():
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(index or 0) >= count:
            raise ConfigError(f"device {name!r} does not exist: this machine has {count} CUDA devices")
        return f"cuda:{int(index or 0)}", None
    if name == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device 'mps' does not exist on this machine")
    if name not in ("cpu", "mps"):
        raise ConfigError(f'device {name!r} is unknown: expected "cuda", "cuda:N", "cpu" or "mps"')
    return name, None
