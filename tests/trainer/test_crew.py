"""Reading ahead: jobs run once, results come in order, errors are raised where they are asked for, threads end."""

from __future__ import annotations

import gc
import threading
import time
from functools import partial

import pytest

from stores.errors import IntegrityError
from trainer.data.prefetch import Prefetch, ReadAhead, Stopped


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("test", "loader"))]


def wait_until(condition) -> None:
    ends = time.monotonic() + 20
    while not condition() and time.monotonic() < ends:
        time.sleep(0.001)
    assert condition()


@pytest.fixture(autouse=True)
def no_thread_stays():
    yield
    assert threads() == []


@pytest.mark.parametrize(("count", "helps"), [(1, False), (1, True), (4, True), (5, False)])
def test_every_job_runs_once_and_results_come_in_order(count, helps):
    begun, lock = [], threading.Lock()

    def work(job):
        with lock:
            begun.append(job)
        time.sleep(0.0005 * (job % 3))
        return job * job

    ahead = ReadAhead(count, "test", helps)
    for job in range(50):
        ahead.submit(partial(work, job))
    assert len(ahead) == 50
    assert [ahead.take() for _ in range(50)] == [job * job for job in range(50)]
    assert len(ahead) == 0
    assert not ahead.ready()
    with pytest.raises(IndexError):
        ahead.take()
    ahead.close()
    assert sorted(begun) == list(range(50))
    assert all(abs(place - job) <= count for place, job in enumerate(begun))


def test_a_waiting_thread_that_helps_runs_jobs_itself():
    stuck, by = threading.Event(), {}

    def work(job):
        by[job] = threading.current_thread().name
        if by[job].startswith("test"):
            stuck.wait(20)

    ahead = ReadAhead(1, "test", helps=True)
    ahead.submit(partial(work, 0))
    wait_until(lambda: 0 in by)
    ahead.submit(partial(work, 1))
    threading.Timer(0.05, stuck.set).start()
    ahead.take()  # the only thread is busy with it
    assert by == {0: "test_0", 1: threading.current_thread().name}
    assert ahead.ready()
    ahead.close()


@pytest.mark.parametrize("helps", [True, False])
def test_an_error_is_raised_for_its_job_alone(helps):
    def work(job):
        if job == 1:
            raise OSError("job 1")
        return job

    ahead = ReadAhead(2, "test", helps)
    for job in range(3):
        ahead.submit(partial(work, job))
    assert ahead.take() == 0
    time.sleep(0.05)
    assert not ahead.ready(), "`ready` promises a result"
    with pytest.raises(OSError, match="job 1"):
        ahead.take()
    assert ahead.take() == 2
    ahead.close()


def test_stopping_ends_a_wait_and_drops_what_has_not_begun():
    go, done = threading.Event(), []

    def work(job):
        go.wait(20)
        done.append(job)

    ahead = ReadAhead(1, "test")
    for job in range(100):
        ahead.submit(partial(work, job))
    threading.Timer(0.05, ahead.stop).start()
    with pytest.raises(Stopped):
        ahead.take()
    go.set()
    ahead.close()
    ahead.close()
    assert done == [0]
    ahead.submit(partial(work, 100))
    with pytest.raises(Stopped):
        [ahead.take() for _ in range(101)]


def test_ctrl_c_is_for_the_thread_that_waits_not_for_the_job_it_happened_to_run():
    begun = threading.Event()

    def work(job):
        if job == 0:
            begun.wait(20)
        if job == 1:
            begun.set()
            raise KeyboardInterrupt

    ahead = ReadAhead(1, "test", helps=True)
    ahead.submit(partial(work, 0))
    time.sleep(0.05)  # the thread has it
    ahead.submit(partial(work, 1))
    with pytest.raises(KeyboardInterrupt):
        ahead.take()
    ahead.close()


def test_no_error_ends_a_thread():
    """Jobs after it would never run, and whoever asks for one would wait for ever."""
    ahead = ReadAhead(1, "test")
    ahead.submit(lambda: exit(3))
    ahead.submit(lambda: "next")
    with pytest.raises(SystemExit):
        ahead.take()
    assert ahead.take() == "next"
    ahead.close()


def test_threads_end_when_nobody_holds_it():
    ahead = ReadAhead(2, "test")
    ahead.submit(lambda: 1)
    assert ahead.take() == 1
    assert len(threads()) == 2
    del ahead
    gc.collect()
    wait_until(lambda: threads() == [])


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(("start", "end", "block"), [(0, 30, 1), (3, 4, 5), (7, 100, 6), (5, 5, 2)])
def test_steps_come_in_order_wherever_a_block_begins(count, start, end, block):
    asked, lock = [], threading.Lock()

    def prepare(step, steps):
        with lock:
            asked.append((step, steps))
        return [one * one for one in range(step, step + steps)]

    made = Prefetch(prepare, start, end, block, count)
    assert list(made) == [step * step for step in range(start, end)]
    assert made.step == end
    with pytest.raises(StopIteration):
        next(made)
    made.close()
    sizes = [steps for _, steps in sorted(asked)]
    assert sum(sizes) == end - start
    assert sizes[:1] in ([], [1]), "the first result does not wait for others"
    assert max(sizes, default=1) <= block


def test_it_prepares_a_bounded_number_of_blocks_ahead():
    done, release = [], threading.Semaphore(0)

    def prepare(step, steps):
        assert steps == 1
        done.append(step)
        release.release()
        return [step]

    made = Prefetch(prepare, 3, 40)
    for expected in range(3, 20):
        assert release.acquire(timeout=20)
        assert next(made) == expected
        assert len(done) <= expected - 3 + 3
    made.close()


@pytest.mark.parametrize("block", [1, 4, 64])
def test_an_error_comes_at_its_step_and_every_time(block):
    def prepare(step, steps):
        if step <= 10 < step + steps:
            raise IntegrityError("step 10")
        return list(range(step, step + steps))

    made = Prefetch(prepare, 0, 100, block, 2)
    assert [next(made) for _ in range(10)] == list(range(10))
    for _ in range(3):
        with pytest.raises(IntegrityError, match="step 10"):
            next(made)
    assert made.step == 10
    made.close()


def test_a_wait_is_counted_and_can_be_stopped():
    go = threading.Event()

    def prepare(step, steps):
        if step == 2:
            go.wait(20)
        return [step] * steps

    made = Prefetch(prepare, 0, 100)
    assert (next(made), next(made)) == (0, 1)
    before = made.waited
    threading.Timer(0.1, made.stop).start()
    with pytest.raises(Stopped):
        next(made)
    assert made.waited - before > 0.05
    go.set()
    made.close()
