"""`fedmq` whose coordinator loses patience soon: what a real one does in half a minute is seen in seconds."""

from fedmq.cli import main
from fedmq.protocol.policy import Timers
from fedmq.runtime import coordinator
from fedmq.transport import gateway, gateway_child

SUSPECT_S, DEAD_S, SILENCE_S = 1.5, 4.0, 3.0
#: of a gateway: when it is asked, and when it is killed
ASK_S, HANG_S = 0.2, 2.0

if __name__ == "__main__":
    Timers.__init__.__defaults__ = (120.0, 0.5, SUSPECT_S, DEAD_S, 300.0)  # type: ignore[misc]
    coordinator.SILENCE_S = SILENCE_S
    gateway.ASK_S = gateway_child.ASK_S = ASK_S
    gateway_child.HANG_S = HANG_S
    main()
