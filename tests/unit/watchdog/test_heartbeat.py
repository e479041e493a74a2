"""The failed rank is found from heartbeats and times alone."""

from __future__ import annotations

import math

import pytest

from vggdist.watchdog.heartbeat import HeartbeatMonitor, Stall

TIMEOUT = 10.0


def monitor_of(size: int = 3) -> HeartbeatMonitor:
    return HeartbeatMonitor([(f"host{rank}", 100 + rank) for rank in range(size)], range(size), TIMEOUT)


def received(
    now: float, *beats: tuple[int, float], silence: dict[int, float] | None = None, size: int = 3
) -> HeartbeatMonitor:
    """Ranks with (number of beats, seconds since the newest); ``silence``: seconds since a rank's last heartbeat."""
    monitor = monitor_of(size)
    for rank, (count, age) in enumerate(beats):
        received_at = now - (silence or {}).get(rank, 0.0)
        monitor.receive(rank, count, age - (now - received_at), f"step {count}", received_at)
    return monitor


def stall_of(monitor: HeartbeatMonitor, now: float) -> Stall:
    stall = monitor.find_stall(now)
    assert stall is not None
    return stall


def test_nobody_is_named_as_long_as_all_move() -> None:
    assert received(50, (5, 0.1), (5, 9.9), (6, 0)).find_stall(50) is None


def test_the_rank_furthest_behind_is_named_with_where_it_is() -> None:
    stall = stall_of(received(50, (8, 11), (7, 12), (9, 11)), 50)
    assert stall.failure.text == "rank 1 (host1, pid 101) has made no progress for 12 s in step 7 (--run.timeout is 10 s)"
    assert (stall.failure.rank, stall.failure.exit_code, stall.behind) == (1, 1, (1,))


def test_of_equals_the_one_that_moved_least_recently_is_named_and_all_show_their_stacks() -> None:
    stall = stall_of(received(50, (7, 11), (9, 12), (7, 11.5)), 50)
    assert stall.failure.rank == 2 and stall.behind == (0, 2)


def test_who_is_behind_hangs_though_the_others_still_move() -> None:
    assert stall_of(received(50, (20, 0.1), (7, 11), (20, 0.1)), 50).failure.rank == 1


def test_who_waits_for_a_slow_rank_does_not_hang() -> None:
    assert received(50, (9, 60), (7, 1), (9, 60)).find_stall(50) is None


def test_who_waits_for_a_rank_that_works_alone_does_not_hang() -> None:
    assert received(50, (9, 1), (9, 60), (9, 60)).find_stall(50) is None


def test_what_is_done_for_the_first_time_may_take_longer() -> None:
    monitor = monitor_of(2)
    for now, hangs in ((50, False), (51, True)):
        monitor.receive(0, 1, now, "step 1", now, timeout_factor=5)
        monitor.receive(1, 1, now, "step 1", now, timeout_factor=5)
        assert (monitor.find_stall(now) is not None) == hangs


def test_a_rank_that_falls_silent_in_its_first_step_is_named_after_the_usual_timeout() -> None:
    monitor = monitor_of(2)
    monitor.receive(1, 1, 2.0, "step 1", 2.0, timeout_factor=5)
    for now, named in ((11.9, False), (12.1, True)):
        monitor.receive(0, 1, now, "step 1", now, timeout_factor=5)
        stall = monitor.find_stall(now)
        assert (stall is not None and stall.failure.rank == 1) == named


def test_a_rank_without_heartbeats_comes_before_one_that_is_behind() -> None:
    stall = stall_of(received(50, (7, 11), (9, 11), (8, 11), silence={1: 10.6}), 50)
    assert (
        stall.failure.text
        == "rank 1 (host1, pid 101) has sent no heartbeat for 11 s; its last phase: step 9 (--run.timeout is 10 s)"
    )
    assert stall.behind == (1,)


def test_of_silent_ranks_the_first_to_fall_silent_is_named() -> None:
    assert stall_of(received(50, (7, 11), (7, 12), (7, 12), silence={1: 7, 2: 8}), 50).failure.rank == 2


def test_silence_alone_is_no_failure_while_the_job_moves() -> None:
    assert received(50, (9, 1), (7, 40), (9, 1), silence={1: 40}).find_stall(50) is None


def test_a_rank_that_has_finished_is_not_waited_for_and_its_heartbeats_are_ignored() -> None:
    monitor = received(50, (9, 1), (7, 60), (9, 1))
    monitor.finish(1, 50)
    monitor.receive(1, 7, 60, "late", 50)
    assert monitor.find_stall(50) is None and not monitor.expects(1)


def test_a_rank_that_waited_for_another_until_it_finished_does_not_hang() -> None:
    monitor = received(50, (9, 60), (7, 1), size=2)
    monitor.finish(1, 50)
    for now, hangs in ((50 + TIMEOUT, False), (51 + TIMEOUT, True)):
        monitor.receive(0, 9, now + 10, "step 9", now)
        assert (monitor.find_stall(now) is not None) == hangs


def test_ranks_without_any_heartbeat_are_reported() -> None:
    assert stall_of(received(50, (9, 11), size=3), 50).failure.text.endswith("(no heartbeat yet: rank 1, 2)")


def test_without_a_timeout_nobody_hangs() -> None:
    monitor = HeartbeatMonitor([("host", 1)], [0], math.inf)
    monitor.receive(0, 1, 1e9, "step 1", 0)
    assert monitor.find_stall(1e9) is None


def test_without_heartbeats_there_is_no_stall() -> None:
    assert monitor_of().find_stall(1e9) is None


@pytest.mark.parametrize(
    ("silence", "text"),
    [
        (0.5, "rank 1 (host1, pid 101) is lost: its process was killed, or its host failed"),
        (9, "rank 1 (host1, pid 101) is lost, after 9 s without a heartbeat"),
    ],
)
def test_a_lost_rank_is_named_and_whether_it_was_silent_before(silence: float, text: str) -> None:
    assert received(50, (9, 1), (9, 10), silence={1: silence}).disconnected(1, 50).text == text


def test_a_rank_that_is_lost_before_its_first_heartbeat_is_named() -> None:
    assert "rank 2 (host2, pid 102) is lost" in monitor_of().disconnected(2, 0).text
