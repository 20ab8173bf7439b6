"""The order of routes, without waiting for any time to pass."""

from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

from student.supervision.routes import Route
from student.supervision.schedule import Schedule

FIRST, SECOND = Route("1", "Town12", b""), Route("2", "Town12", b"")
DAY_S = 86_400


def test_a_route_that_failed_waits_while_others_go_before_it():
    schedule = Schedule([FIRST, SECOND])
    with ThreadPoolExecutor(1) as pool:
        assert schedule.take() is FIRST
        schedule.again(FIRST, DAY_S)
        assert schedule.take() is SECOND
        waiting = pool.submit(schedule.take)
        schedule.again(SECOND, 0)
        assert waiting.result() is SECOND  # not the first, whose time is not yet
        waiting = pool.submit(schedule.take)
        schedule.stop()
        assert waiting.result() is None


def test_a_worker_waits_for_routes_that_others_may_put_back():
    schedule = Schedule([FIRST])
    with ThreadPoolExecutor(2) as pool:
        assert schedule.take() is FIRST
        waiting = [pool.submit(schedule.take) for _ in range(2)]
        assert not wait(waiting, timeout=0.3).done
        schedule.again(FIRST, 0)
        wait(waiting, return_when=FIRST_COMPLETED)
        schedule.done()
        assert {future.result() for future in waiting} == {FIRST, None}
        assert schedule.take() is None
