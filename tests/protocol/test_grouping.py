"""Groups of clients: a matter of the selection and of who hosts, and of nothing else."""

from __future__ import annotations

import pytest
from drive import Drive, dispatched, ready
from hypothesis import given
from hypothesis import strategies as st

from fedmq.protocol import events as ev
from fedmq.protocol.fields import MAX_GROUP
from fedmq.protocol.grouping import AUTO_MAX, Size, automatic, chunks
from fedmq.protocol.phases import Progress
from fedmq.protocol.policy import RoundPolicy

CLIENTS = [f"client_{k:02d}" for k in range(12)]
_HOSTS = st.dictionaries(st.sampled_from(CLIENTS), st.sets(st.sampled_from("uvw")), min_size=6)
_SIZES = st.builds(Size, st.integers(1, 5000), st.integers(1, 200_000))


@given(_HOSTS, st.integers(1, MAX_GROUP), st.randoms())
def test_chunks(hosts: dict[str, set[str]], size: int, dice: object) -> None:
    clients = list(hosts)
    dice.shuffle(clients)  # type: ignore[attr-defined]
    groups = chunks(clients, hosts, size)
    assert sorted(client for group in groups for client in group) == sorted(hosts), "each client once"
    assert groups == chunks(sorted(hosts), hosts, size), "the order of the selection plays no part"
    for group in groups:
        assert 1 <= len(group) <= size and list(group) == sorted(group)
        assert len({frozenset(hosts[client]) for client in group}) == 1, "whoever hosts one hosts all"
        assert len(group) == 1 or hosts[group[0]], "nobody's clients are not trained together"
    for who in {frozenset(some) for some in hosts.values() if some}:
        alike = [group for group in groups if frozenset(hosts[group[0]]) == who]
        assert sum(len(group) < size for group in alike) <= 1, "all groups but the last are full"


@given(_HOSTS, st.integers(1, MAX_GROUP), st.sets(st.sampled_from("xyz"), min_size=1))
def test_more_workers_that_host_everything_change_nothing(
    hosts: dict[str, set[str]], size: int, more: set[str]
) -> None:
    hosts = {client: some or {"w"} for client, some in hosts.items()}
    assert chunks(hosts, hosts, size) == chunks(hosts, {client: some | more for client, some in hosts.items()}, size)


def test_one_at_a_time_is_one_group_each() -> None:
    hosts = {client: {"w"} for client in CLIENTS}
    assert chunks(CLIENTS, hosts, 1) == [(client,) for client in CLIENTS]


# --- how many --------------------------------------------------------------------------------------


@given(st.lists(_SIZES, min_size=1, max_size=40), st.integers(1, 64), st.integers(1, 500))
def test_automatic_is_bounded_and_blind_to_order(sizes: list[Size], batch_size: int, cohort: int) -> None:
    found = automatic(sizes, batch_size, cohort)
    assert 1 <= found <= max(1, min(AUTO_MAX, cohort // 4))
    assert found == automatic(sizes[::-1], batch_size, cohort)


@pytest.mark.parametrize(
    ("examples", "tokens", "batch_size", "cohort", "expected"),
    [
        (5, 125, 8, 50, 4),  # 125 tokens in a step
        (5, 125, 1, 50, 12),  # 25 tokens in a step: 512 // 25, but only a quarter of the round
        (5, 125, 1, 200, 16),  # never more
        (5, 125, 1, 7, 1),  # too few clients for two in a step
        (100, 2500, 10, 50, 2),  # 250 tokens in a step
        (100, 2600, 10, 50, 1),  # 260 tokens: nothing to gain
        (1, 1, 8, 1000, 16),
    ],
)
def test_automatic(examples: int, tokens: int, batch_size: int, cohort: int, expected: int) -> None:
    assert automatic([Size(examples, tokens)] * 3, batch_size, cohort) == expected


def test_without_sizes_there_is_something_to_do() -> None:
    assert automatic([], 8, 8) == 2


@pytest.mark.parametrize("together", [0, -1, MAX_GROUP + 1])
def test_a_policy_with_an_impossible_group(together: int) -> None:
    with pytest.raises(ValueError, match=f"1 <= clients_per_batch <= {MAX_GROUP}"):
        RoundPolicy(1, 1, 1, clients_per_batch=together)


def test_the_round_opens_in_groups_of_its_own_size() -> None:
    """Auto: of what the selected clients have, not of all clients."""
    drive = Drive(rounds=1, cohort=8, expected=9, together=None)
    hosted = ready("a", *CLIENTS[:8], size=2)
    hosted.clients[CLIENTS[8]] = Size(1000, 50_000)
    drive.started(hosted)
    opened, *_ = drive.say(ev.Selected(1, tuple(CLIENTS[:8])))
    assert opened == ev.OpenRound(1, tuple((a, b) for a, b in zip(CLIENTS[:8:2], CLIENTS[1:8:2], strict=True)))


def test_hosts_that_are_lost_still_part_the_groups() -> None:
    """Else a round that opens while a worker is away would be trained in other company than it was to be."""
    one, two = CLIENTS[:2], CLIENTS[2:4]
    drive = Drive(rounds=1, cohort=4, expected=4, together=4)
    drive.started(ready("a", *one), ready("b", *two))
    drive.say(ev.WorkerGone("b", "crash"))
    opened, given_to_a = drive.say(ev.Selected(1, (*one, *two)))
    assert opened == ev.OpenRound(1, (tuple(one), tuple(two)))
    assert dispatched([given_to_a]) == {"a": " ".join(f"train-1-{client}-0" for client in one)}


def test_every_host_counts_whoever_came_last() -> None:
    drive = Drive(rounds=1, cohort=3, expected=3, together=3)
    drive.started(ready("a", *CLIENTS[:2]), ready("b", *CLIENTS[:3]))
    opened, *_ = drive.say(ev.Selected(1, tuple(CLIENTS[:3])))
    assert opened == ev.OpenRound(1, (tuple(CLIENTS[:2]), (CLIENTS[2],)))


def test_a_resumed_run_knows_who_hosted_what_before() -> None:
    """Workers whose clients overlap: which of them is back when a round opens decides nothing."""
    clients = tuple(CLIENTS[:3])
    hosts = {clients[0]: ("a",), clients[1]: ("a", "b"), clients[2]: ("a", "b")}
    drive = Drive(rounds=2, cohort=3, expected=3, together=3, progress=Progress(version=1, hosts=hosts))
    drive.say(ready("a", *clients))
    opened, *_ = drive.say(ev.Selected(2, clients))
    assert opened == ev.OpenRound(2, (clients[:1], clients[1:]))


def test_a_worker_that_comes_back_with_fewer_clients_has_given_them_away() -> None:
    clients = tuple(CLIENTS[:3])
    hosts = {clients[0]: ("a",), clients[1]: ("a", "b"), clients[2]: ("a", "b")}
    drive = Drive(rounds=2, cohort=3, expected=3, together=3, progress=Progress(version=1, hosts=hosts))
    drive.say(ready("b", clients[2]), ready("a", *clients[:2]))
    opened, *_ = drive.say(ev.Selected(2, clients))
    assert opened == ev.OpenRound(2, (clients[:2], clients[2:]))


def test_a_resumed_run_draws_from_the_clients_that_it_would_have_drawn_from() -> None:
    """Also from those that nobody hosts at the moment; not from those that were given up, until they are back."""
    known = Progress(
        1, hosts=dict.fromkeys(CLIENTS[:4], ("b",)), sizes=dict.fromkeys(CLIENTS[:4], Size(2, 50)), gone=(CLIENTS[3],)
    )
    one, two, three, four = CLIENTS[:4]
    for comes, drawn_from in (((one, two), (one, two, three)), ((two, four), (one, two, three, four))):
        drive = Drive(rounds=2, cohort=2, expected=2, progress=known)
        assert drive.say(ready("a", *comes)) == [ev.Select(2, drawn_from, 2)]


def test_a_resumed_round_has_groups_of_the_size_that_it_would_have_had() -> None:
    """What is known of a client decides, whether or not its worker is back already."""
    clients = tuple(CLIENTS[:8])
    hosts, sizes = dict.fromkeys(clients, ("a",)), dict.fromkeys(clients, Size(2, 50))
    drive = Drive(rounds=2, cohort=8, expected=1, together=None, progress=Progress(1, hosts=hosts, sizes=sizes))
    drive.say(ready("b", CLIENTS[8]))
    opened, *_ = drive.say(ev.Selected(2, clients))
    assert opened == ev.OpenRound(2, tuple(zip(clients[::2], clients[1::2], strict=True)))
