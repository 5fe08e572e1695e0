"""`fedmq` whose coordinator loses patience soon: what a real one does in half a minute is seen in seconds."""

from fedmq.cli import main
from fedmq.protocol.policy import Timers
from fedmq.runtime import coordinator

SUSPECT_S, DEAD_S, SILENCE_S = 1.5, 4.0, 3.0

if __name__ == "__main__":
    Timers.__init__.__defaults__ = (120.0, 0.5, SUSPECT_S, DEAD_S, 300.0)  # type: ignore[misc]
    coordinator.SILENCE_S = SILENCE_S
    main()
