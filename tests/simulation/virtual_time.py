"""Stands for the module `time`: no clock runs here, and each host has its own idea of the time of day."""

from __future__ import annotations

_EPOCH_S = 1.8e9


class VirtualTime:
    """One clock for the cluster, in seconds; what a process reads on it is shifted for its host.

    Attributes:
      now: simulated seconds since the beginning.
      boot_s, wall_s: of the host whose code runs now, by how much its monotonic clock and its time of day are off.
    """

    def __init__(self) -> None:
        self.now = self.boot_s = self.wall_s = 0.0

    def monotonic(self) -> float:
        """Seconds on this host's monotonic clock."""
        return self.now + self.boot_s

    def time(self) -> float:
        """The time of day on this host."""
        return _EPOCH_S + self.now + self.wall_s

    def sleep(self, seconds: float) -> None:
        """Nothing in these processes sleeps: they wait in `receive`."""
        raise AssertionError(f"a process wants to sleep for {seconds} s")
