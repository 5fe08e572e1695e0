"""What a peer may do before it is not heard any more: rates as token buckets, and strikes. No clock inside."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Rate(NamedTuple):
    """So many messages a second for long, and `burst` at once."""

    per_s: float
    burst: int


#: A worker beats twice a second. What it answers to tasks is counted apart: see `Bucket.earn` and `Bucket.widen`.
CONTROL = Rate(50.0, 200)
#: Credits bound a transfer; this bounds who ignores them. 64 KiB pieces still make 650 MB/s.
DATA = Rate(10_000.0, 20_000)
#: A hello or a ready is answered with writes and notes: it counts as so many messages.
JOINING_COSTS = 10
#: Strikes at which a worker is out.
MAX_STRIKES = 3
#: A strike that an honest worker may come by counts for so long.
FORGIVEN_AFTER_S = 600.0
#: What comes in bursts is one strike within this time.
BURST_S = 10.0
#: Peers that are remembered.
MAX_PEERS = 4096

#: What no honest worker says, whatever happened to it or on the way: these strikes are for good.
LIES = frozenset(
    {"EXAMPLES", "TOKENS", "NORM", "SCHEMA", "SAFETENSORS", "CODEC", "NONFINITE", "NONCE", "KIND", "CONFLICT"}
)
#: What damage on the way, a restart of ours or a bug can look like: these are forgiven.
FAULTS = frozenset({"MALFORMED", "TOO_LARGE", "UNKNOWN_TYPE", "INVALID", "NONCANONICAL", "PUT", "FLOOD"})
#: Many pieces are on their way when a transfer ends, and a flood is many messages: one strike for all.
IN_BURSTS = frozenset({"PUT", "FLOOD"})


class Bucket:
    """Tokens, one for each message; they come back with time.

    Example:
      >>> bucket = Bucket(Rate(per_s=1.0, burst=2), now=0.0)
      >>> [bucket.take(0.0), bucket.take(0.0), bucket.take(0.5), bucket.take(1.5)]
      [True, True, False, True]
    """

    def __init__(self, rate: Rate, now: float) -> None:
        self._per_s, self._burst = rate.per_s, float(rate.burst)
        self._tokens, self._filled_at = self._burst, now

    def take(self, now: float) -> bool:
        """One message at monotonic time `now` (seconds): whether it may pass."""
        self._tokens = min(self._burst, self._tokens + self._per_s * max(0.0, now - self._filled_at))
        self._filled_at = max(self._filled_at, now)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def charge(self, num_messages: int) -> None:
        """A message that passed counts for so many more."""
        self._tokens = max(0.0, self._tokens - num_messages)

    def earn(self, num_messages: int) -> None:
        """So many messages were asked for: they do not count."""
        self._tokens = min(self._burst, self._tokens + num_messages)

    def widen(self, burst: int) -> None:
        """More may come at once, from now on. It never becomes less: asking again fills nothing."""
        more = max(0.0, burst - self._burst)
        self._burst, self._tokens = self._burst + more, self._tokens + more


class Strikes:
    """What one peer did that it may not.

    Example:
      >>> strikes = Strikes()
      >>> [strikes.add(code, now) for code, now in (("NONCE", 0.0), ("MALFORMED", 1.0), ("NORM", 700.0))]
      [1, 2, 2]
    """

    def __init__(self) -> None:
        self._given: list[tuple[str, float]] = []

    def add(self, code: str, now: float) -> int:
        """Something with this code was refused at monotonic time `now` (seconds): how many strikes stand."""
        again = code in IN_BURSTS and any(old == code and now - at < BURST_S for old, at in self._given)
        if (code in LIES or code in FAULTS) and not again and not self.out(now):
            self._given.append((code, now))
        return len(self._given)

    def out(self, now: float) -> bool:
        """Whether it is not to be heard at monotonic time `now` (seconds)."""
        self._given = [(old, at) for old, at in self._given if old in LIES or now - at < FORGIVEN_AFTER_S]
        return len(self._given) >= MAX_STRIKES

    @property
    def codes(self) -> str:
        """What for, for people."""
        return ", ".join(code for code, _ in self._given)


class Recent(Generic[K, V]):
    """A value for each key that was used of late; the oldest is forgotten, so that nobody can fill our memory.

    Example:
      >>> recent = Recent(list, capacity=2)
      >>> for key in ("a", "b", "a", "c"):
      ...     recent.of(key).append(key)
      >>> recent.of("a"), recent.of("b")
      (['a', 'a'], [])
    """

    def __init__(self, make: Callable[[], V], capacity: int = MAX_PEERS) -> None:
        self._make, self._capacity = make, capacity
        self._values: OrderedDict[K, V] = OrderedDict()

    def of(self, key: K) -> V:
        """The key's value, made if it has none."""
        if key not in self._values:
            self._values[key] = self._make()
            if len(self._values) > self._capacity:
                self._values.popitem(last=False)
        self._values.move_to_end(key)
        return self._values[key]

    def set(self, key: K, value: V) -> None:
        """Another value."""
        self.of(key)
        self._values[key] = value

    def forget(self, key: K) -> None:
        """Let go of a key, if it is there."""
        self._values.pop(key, None)

    def __contains__(self, key: K) -> bool:
        return key in self._values

    def __len__(self) -> int:
        return len(self._values)
