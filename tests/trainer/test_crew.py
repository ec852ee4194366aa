"""A crew does every job once, in the order given; its waiter works too; errors come where they are waited for."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError

import pytest

from trainer.data.crew import Crew


@pytest.fixture(autouse=True)
def no_thread_stays():
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("test")]


@pytest.mark.parametrize(("threads", "helps"), [(1, False), (2, True), (5, True), (5, False)])
def test_every_job_is_done_once_and_begun_in_order(threads, helps):
    begun, lock = [], threading.Lock()

    def work(job):
        with lock:
            begun.append(job)
        time.sleep(0.0005 * (job % 3))

    crew = Crew(work, threads, helps, "test")
    for job in range(50):
        crew.give(job)
    for job in range(50):
        crew.wait(job)
        assert not crew.is_done(job), "it is forgotten"
    crew.join()
    assert sorted(begun) == list(range(50))
    assert all(abs(place - job) < threads for place, job in enumerate(begun))


def test_who_waits_does_the_next_job_itself():
    stuck, by = threading.Event(), {}

    def work(job):
        by[job] = threading.current_thread().name
        if by[job].startswith("test"):
            stuck.wait(20)

    crew = Crew(work, 2, True, "test")
    crew.give(0)
    while 0 not in by:
        time.sleep(0.001)
    crew.give(1)
    crew.wait(1)  # the only thread is busy
    assert by == {0: "test_0", 1: threading.current_thread().name}
    assert not crew.is_done(0)
    stuck.set()
    crew.join()


@pytest.mark.parametrize("helps", [True, False])
def test_an_error_waits_for_its_job(helps):
    def work(job):
        if job == 1:
            raise OSError("job 1")

    crew = Crew(work, 2, helps, "test")
    for job in range(3):
        crew.give(job)
    crew.wait(2)
    crew.wait(0)
    while not crew._is_done(1):
        time.sleep(0.001)
    assert not crew.is_done(1)
    with pytest.raises(OSError, match="job 1"):
        crew.wait(1)
    crew.join()


def test_stopping_ends_a_wait_and_drops_what_is_not_begun():
    go, done = threading.Event(), []

    def work(job):
        go.wait(20)
        done.append(job)

    crew = Crew(work, 1, False, "test")
    for job in range(100):
        crew.give(job)
    threading.Timer(0.05, crew.stop).start()
    with pytest.raises(CancelledError):
        crew.wait(50)
    go.set()
    crew.join()
    crew.join()
    assert done == [0]


def test_ctrl_c_is_for_who_waits():
    """Not kept for the job that the waiting thread happened to do."""
    begun = threading.Event()

    def work(job):
        if job == 0:
            begun.wait(20)
        if job == 1:
            begun.set()
            raise KeyboardInterrupt

    crew = Crew(work, 2, True, "test")
    crew.give(0)
    time.sleep(0.05)  # the thread has it
    crew.give(1)
    with pytest.raises(KeyboardInterrupt):
        crew.wait(0)
    crew.join()


def test_no_error_ends_a_thread():
    """Nobody would do the jobs after it, and who waits for one would wait for ever."""

    def work(job):
        if job == 0:
            raise SystemExit

    crew = Crew(work, 1, False, "test")
    crew.give(0)
    crew.give(1)
    with pytest.raises(SystemExit):
        crew.wait(0)
    crew.wait(1)
    crew.join()
