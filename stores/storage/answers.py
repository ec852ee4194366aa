"""Requests to object storage that can be interrupted.

A blocking call of the library holds up signals until the server answers or a timeout passes. So requests run in an
event loop in a thread of its own, and the caller waits where Python can interrupt it. After a signal no thread waits
longer than `GIVE_UP_S` for an answer.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from stores.errors import StorageError
from stores.system import interrupts

T = TypeVar("T")
GIVE_UP_S = 1.0
LOOK_S = 0.1  # seconds between checks for a signal


def wait_for(request: Callable[[], Awaitable[T]]) -> T:
    """Make a request and return its answer, or raise its error; in any thread.

    Raises:
        StorageError: the wait was given up because of a signal.
    """
    answer = asyncio.run_coroutine_threadsafe(_made(request), _loop(os.getpid()))
    began = time.monotonic()
    try:
        while True:
            try:
                return answer.result(LOOK_S)
            except TimeoutError:
                if answer.done():
                    raise  # the request's own
            if (asked := interrupts.asked()) and time.monotonic() - max(asked, began) > GIVE_UP_S:
                raise StorageError("object storage gives no answer", "it was waited for no longer: the command ends")
    finally:
        answer.cancel()


async def _made(request: Callable[[], Awaitable[T]]) -> T:
    return await request()


@functools.lru_cache(maxsize=1)
def _loop(pid: int) -> asyncio.AbstractEventLoop:
    """The event loop of a process; a forked process has its parent's memory, but not its threads."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="requests", daemon=True)
    thread.start()

    def end() -> None:
        if pid == os.getpid():
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()
            # a thread of the library that is still handing over the last answer would abort in an interpreter that ends
            time.sleep(LOOK_S)

    atexit.register(end)
    return loop
