"""Answers of object storage, waited for so that an interruption is heard.

A call that blocks in the library holds its thread, and the signals of the main one, until the server answers or the
patience of the network is at its end. So requests run in an event loop in a thread of its own, and whoever asked waits
where Python can interrupt it. Once the command is to end, no answer is waited for longer than `GIVE_UP_S`, in any
thread: a request of a thread that works ahead, of a lock that is released, of a lock's sign of life.
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
LOOK_S = 0.1  # between two looks whether the command is to end


def wait_for(request: Callable[[], Awaitable[T]]) -> T:
    """Make a request and return its answer, or raise its error; from any thread.

    Raises:
        StorageError: given up, because the command is to end.
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
    """The event loop of a process; a forked one has its parent's memory, but not its threads."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="requests", daemon=True)
    thread.start()

    def end() -> None:
        if pid == os.getpid():
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    atexit.register(end)
    return loop
