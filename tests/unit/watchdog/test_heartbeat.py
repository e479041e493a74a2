"""The culprit is found from beats and times alone."""

from __future__ import annotations

import math

import pytest

from vggdist.watchdog.heartbeat import Finding, Roster

TIMEOUT = 10.0


def roster(size: int = 3) -> Roster:
    return Roster([(f"host{rank}", 100 + rank) for rank in range(size)], range(size), TIMEOUT)


def heard(now: float, *beats: tuple[int, float], silence: dict[int, float] | None = None, size: int = 3) -> Roster:
    """Ranks with (count of beats, seconds since the newest); ``silence``: seconds since a rank was heard."""
    known = roster(size)
    for rank, (count, age) in enumerate(beats):
        heard_at = now - (silence or {}).get(rank, 0.0)
        known.hear(rank, count, age - (now - heard_at), f"step {count}", heard_at)
    return known


def found(known: Roster, now: float) -> Finding:
    finding = known.judge(now)
    assert finding is not None
    return finding


def test_nobody_is_named_as_long_as_all_move() -> None:
    assert heard(50, (5, 0.1), (5, 9.9), (6, 0)).judge(50) is None


def test_the_rank_furthest_behind_is_named_with_where_it_is() -> None:
    finding = found(heard(50, (8, 11), (7, 12), (9, 11)), 50)
    assert finding.verdict.text == "rank 1 (host1, pid 101) has not moved for 12 s: step 7 (--run.timeout is 10 s)"
    assert (finding.verdict.rank, finding.verdict.exit_code, finding.behind) == (1, 1, (1,))


def test_of_equals_the_one_that_moved_least_recently_is_named_and_all_show_their_stacks() -> None:
    finding = found(heard(50, (7, 11), (9, 12), (7, 11.5)), 50)
    assert finding.verdict.rank == 2 and finding.behind == (0, 2)


def test_who_is_behind_hangs_though_the_others_still_move() -> None:
    assert found(heard(50, (20, 0.1), (7, 11), (20, 0.1)), 50).verdict.rank == 1


def test_who_waits_for_a_slow_rank_does_not_hang() -> None:
    assert heard(50, (9, 60), (7, 1), (9, 60)).judge(50) is None


def test_who_waits_for_a_rank_that_works_alone_does_not_hang() -> None:
    assert heard(50, (9, 1), (9, 60), (9, 60)).judge(50) is None


def test_what_is_done_for_the_first_time_may_take_longer() -> None:
    known = roster(2)
    for now, hangs in ((50, False), (51, True)):
        known.hear(0, 1, now, "step 1", now, patience=5)
        known.hear(1, 1, now, "step 1", now, patience=5)
        assert (known.judge(now) is not None) == hangs


def test_a_rank_that_falls_silent_in_its_first_step_is_named_after_the_usual_timeout() -> None:
    known = roster(2)
    known.hear(1, 1, 2.0, "step 1", 2.0, patience=5)
    for now, named in ((11.9, False), (12.1, True)):
        known.hear(0, 1, now, "step 1", now, patience=5)
        finding = known.judge(now)
        assert (finding is not None and finding.verdict.rank == 1) == named


def test_a_rank_without_a_sign_of_life_comes_before_one_that_is_behind() -> None:
    finding = found(heard(50, (7, 11), (9, 11), (8, 11), silence={1: 10.6}), 50)
    assert (
        finding.verdict.text
        == "rank 1 (host1, pid 101) has given no sign of life for 11 s; its last was: step 9 (--run.timeout is 10 s)"
    )
    assert finding.behind == (1,)


def test_of_silent_ranks_the_first_to_fall_silent_is_named() -> None:
    assert found(heard(50, (7, 11), (7, 12), (7, 12), silence={1: 7, 2: 8}), 50).verdict.rank == 2


def test_silence_alone_is_no_failure_while_the_job_moves() -> None:
    assert heard(50, (9, 1), (7, 40), (9, 1), silence={1: 40}).judge(50) is None


def test_a_rank_that_has_left_is_not_waited_for_and_not_heard_again() -> None:
    known = heard(50, (9, 1), (7, 60), (9, 1))
    known.leave(1, 50)
    known.hear(1, 7, 60, "late", 50)
    assert known.judge(50) is None and not known.expects(1)


def test_who_waited_for_a_rank_until_it_left_does_not_hang() -> None:
    known = heard(50, (9, 60), (7, 1), size=2)
    known.leave(1, 50)
    for now, hangs in ((50 + TIMEOUT, False), (51 + TIMEOUT, True)):
        known.hear(0, 9, now + 10, "step 9", now)
        assert (known.judge(now) is not None) == hangs


def test_ranks_that_were_never_heard_are_told() -> None:
    assert found(heard(50, (9, 11), size=3), 50).verdict.text.endswith("(not heard: rank 1, 2)")


def test_without_a_timeout_nobody_hangs() -> None:
    known = Roster([("host", 1)], [0], math.inf)
    known.hear(0, 1, 1e9, "step 1", 0)
    assert known.judge(1e9) is None


def test_nothing_is_judged_before_anybody_is_heard() -> None:
    assert roster().judge(1e9) is None


@pytest.mark.parametrize(
    ("silence", "text"),
    [
        (0.5, "rank 1 (host1, pid 101) is gone: it was killed, or its machine failed"),
        (9, "rank 1 (host1, pid 101) is gone, after 9 s without a sign of life"),
    ],
)
def test_a_rank_that_is_gone_is_named_and_whether_it_was_silent_before(silence: float, text: str) -> None:
    assert heard(50, (9, 1), (9, 10), silence={1: silence}).gone(1, 50).text == text


def test_a_rank_that_is_gone_before_it_was_heard_is_named() -> None:
    assert "rank 2 (host2, pid 102) is gone" in roster().gone(2, 0).text
