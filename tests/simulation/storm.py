"""What goes wrong in a run, and when: drawn from its seed. Then the faults end, and so must the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cluster import PATIENCE_S, STORM_S, Cluster, Shape, simulated
from disk import STEPS
from flood import Flood, repeat
from hosts import Doom
from network import WAYS, Weather
from violation import Violation

SHAPES = (
    Shape(sites=(1, 1), clients=2, cohort=4, together=1, rounds=3, optimizer="none", codec="sign", download="int4"),
    Shape(sites=(2, 1), clients=2, cohort=3, together=1, rounds=3, optimizer="adam", selection="weighted"),
    Shape(sites=(2, 2), clients=2, cohort=4, together=2, rounds=3, optimizer="avgm", download="sign"),
    Shape(sites=(3,), clients=4, cohort=3, together=3, rounds=4, optimizer="none", selection="power_of_choice"),
)
#: Steps that are aimed at twice as often as others, so that the slice of a day has them all.
RARE = ("link", "unlink", "commit to updates", "commit to rounds", "commit to evaluations")
#: Chance of a fault, relative to the others; each seed takes some of them only, so that each is alone at times.
FAULTS = {
    "link drops": 6.0,
    "partition": 4.0,
    "pause": 3.0,
    "coordinator dies": 4.0,
    "worker dies": 4.0,
    "blackout": 1.0,
    "trainer dies": 2.0,
    "trainer hangs": 2.0,
    "wall clock jumps": 2.0,
    "coordinator is stopped": 1.0,
    "worker leaves": 1.0,
    "key is revoked": 2.0,
    "stranger floods": 1.0,
    "worker repeats itself": 1.5,
}


def weather(cluster: Cluster) -> Weather:
    """Of one run: fair, or bad in some ways."""
    dice = cluster.dice

    def sometimes(most: float) -> float:
        return dice.choice([0.0, 0.0, dice.uniform(0, most)])

    return Weather(
        delay_s=dice.choice([0.01, 0.1, 1.0]),
        breaks=sometimes(0.02),
        twice=sometimes(1.0),
        lost=sometimes(0.2),
        again=sometimes(1.0),
        late=sometimes(0.2),
        damaged=sometimes(0.05),
    )


def strike(cluster: Cluster, fault: str) -> None:
    """One fault."""
    dice, worker = cluster.dice, cluster.dice.choice(list(cluster.workers.values()))
    host = dice.choice(cluster.hosts())
    lines, trainer = cluster.network.lines(), worker.trainer
    doom = Doom(dice.randint(1, 12), power=dice.random() < 0.6, everywhere=dice.random() < 0.2)
    match fault:
        case "link drops" if lines:
            dice.choice(lines).hang_up()
        case "partition" if lines:
            ways = dice.choice([WAYS, WAYS[:1], WAYS[1:]])
            for line in worker.lines():
                line.stall(ways, dice.choice([dice.uniform(0, 10), dice.uniform(10, 40)]))
            fault = f"partition {' and '.join(ways)}"
        case "pause":
            host.paused_until = cluster.now + dice.choice([dice.uniform(0, 5), dice.uniform(5, 40)])
        case "coordinator dies" if cluster.coordinator.doom is None or dice.random() < 0.3:
            # Some kinds of step are rare: each is meant now and then.
            later = dice.choice([None, Doom(dice.randint(1, 40), power=True)])
            rare = doom._replace(kind=dice.choice([*STEPS, *RARE]), steps=dice.randint(1, 3), then=later)
            cluster.coordinator.doom = dice.choice([*[doom] * 3, *[rare] * 6, doom._replace(error=True)])
        case "worker dies" if worker.doom is None:
            worker.doom = dice.choice([*[doom] * 9, doom._replace(error=True)])
        case "blackout":
            cluster.blackout()
        case "trainer dies" if trainer is not None and trainer.loaded:
            trainer.die()
        case "trainer hangs" if trainer is not None:
            trainer.hung_until = cluster.now + dice.uniform(5, 60)
        case "wall clock jumps":
            host.wall_s += dice.choice([-86400.0, -3600.0, -1.0, 3600.0, 86400.0])
        case "coordinator is stopped":
            cluster.coordinator.asked_to_stop = "Ctrl-C"
        case "worker leaves" if worker.agent is not None:
            worker.agent.leave("Ctrl-C")
        case "key is revoked" if (revoked := revoke(cluster)) is not None:
            fault = revoked
        case "stranger floods":
            Flood(cluster)
        case "worker repeats itself" if lines and repeat(cluster, dice.choice(lines)):
            pass
        case _:
            return
    cluster.happens(fault)


def revoke(cluster: Cluster) -> str | None:
    """Take a worker's key from it, for a while; for good only if another that may stay hosts its clients, too."""
    dice, door = cluster.dice, cluster.network.door
    there = [worker for worker in cluster.workers.values() if door.lets_in(worker.name)]
    if not there or not door.keyed:
        return None
    # Those matter most whose updates are on their way.
    sending = [worker for worker in there if worker.name in cluster.coordinator.uploaders()]
    worker = dice.choice(sending if sending and dice.random() < 0.7 else there)
    others = [other for other in there if other is not worker and other.clients == worker.clients]
    for_good = bool(others) and dice.random() < 0.4
    door.revoke(worker.name, for_good)
    if for_good:
        return "key is revoked for good"
    cluster.after(dice.choice([dice.uniform(0, 5), dice.uniform(5, 40)]), door.allow, worker.name)
    return "key is revoked"


def storm(cluster: Cluster) -> None:
    """Faults, one after another, until there have been enough."""
    dice = cluster.dice
    cluster.network.weather = weather(cluster)
    cluster.failing = dice.choice([0.0, 0.0, 0.1])
    faults = dice.sample(sorted(FAULTS), dice.randint(2, len(FAULTS)))
    cluster.network.door.keyed = "key is revoked" in faults or dice.random() < 0.5
    every_s = dice.choice([1.5, 4.0, 10.0])

    def next_one() -> None:
        if not cluster.over and cluster.now < STORM_S:
            strike(cluster, dice.choices(faults, [FAULTS[fault] for fault in faults])[0])
            cluster.after(dice.expovariate(1 / every_s), next_one)

    cluster.after(dice.uniform(0, every_s), next_one)


def clear(cluster: Cluster) -> None:
    """The faults have ended."""
    cluster.calm, cluster.failing, cluster.network.weather = True, 0.0, Weather()
    for host in cluster.hosts():
        host.doom, host.paused_until = None, 0.0
        host.wake()
    for line in cluster.network.lines():
        line.stalled_until = dict.fromkeys(WAYS, 0.0)
    for worker in cluster.workers.values():
        if worker.trainer is not None:
            worker.trainer.hung_until = 0.0
    for name in sorted(cluster.network.door.barred):
        cluster.network.door.allow(name)
    cluster.log("* the faults have ended")


def run_through(cluster: Cluster, faults: bool) -> None:
    """From the beginning to the end."""
    if faults:
        storm(cluster)
        cluster.play(STORM_S, lambda: cluster.over)
        clear(cluster)
    cluster.play(cluster.now + PATIENCE_S, lambda: cluster.over)
    if not cluster.over:
        raise Violation(f"I11: the run does not end: {cluster.coordinator.awaited}")


_EXPECTED: dict[Shape, dict[int, str]] = {}


def undisturbed(shape: Shape) -> dict[int, str]:
    """The digests of this run's versions where nothing goes wrong."""
    if shape not in _EXPECTED:
        with simulated(0, shape) as cluster:
            run_through(cluster, faults=False)
            _EXPECTED[shape] = dict(cluster.witness.committed)
    return _EXPECTED[shape]


def simulate(seed: int, trace: Callable[[str], None] | None = None) -> Cluster:
    """One seed's run, to its end.

    Raises:
      AssertionError: something does not hold; a note says how to see it again.
    """
    shape = SHAPES[seed % len(SHAPES)]
    expected = undisturbed(shape)
    with simulated(seed, shape, expected=expected, trace=trace) as cluster:
        try:
            run_through(cluster, faults=True)
        except BaseException as error:
            error.add_note(f"seed {seed}: PYTHONPATH={Path.cwd()} python {Path(__file__).parent}/simulate.py {seed}")
            raise
    return cluster
