"""Ctrl-C, SIGTERM and SIGHUP: one exception in the main thread, raised again until it is heard.

What a signal handler raises can be lost: in a destructor or a callback, where Python only prints it, or in an import
that tries one module after the other and goes on with what it has. So a thread looks every half second whether the
exception is on its way up; if it is not, it is raised again. What does not end within `PATIENCE_S`, or is told a second
time, is ended at once: whatever is on disk is whole after a kill as well.

A signal that the caller had ignored (nohup, a job in the background) stays ignored.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
EXIT_CODE = 130
AGAIN_S = 0.5  # until an exception that was not heard is raised again
SAME_S = 1.0  # signals that come together are one: a terminal that closes sends SIGHUP twice
PATIENCE_S = 20.0  # for what has to be put in order


class _State:
    """Of this process, which has one main thread. A class, so that a handler may change what it holds."""

    make: Callable[[], BaseException] = KeyboardInterrupt
    raised: BaseException | None = None  # latest
    asked: float | None = None  # when the first signal came
    patience: float = 0.0  # since when `PATIENCE_S` counts
    wake: Callable[[], None] | None = None  # set while `held`
    over: int | None = None  # the exit code, once the command is over
    heard: SimpleQueue[None] | None = None  # what the thread waits for


_now = _State()


def listen(make: Callable[[], BaseException]) -> None:
    """From here on the first signal raises `make()` in the main thread, which calls this; until `over`."""
    _now.make, _now.asked, _now.raised, _now.over = make, None, None, None
    if _now.heard is None:
        _now.heard = SimpleQueue()
        threading.Thread(target=_insist, args=(threading.get_ident(), _now.heard), name="signals", daemon=True).start()
    signal.signal(signal.SIGALRM, _on_alarm)
    for number in _not_ignored():
        signal.signal(number, _on_signal)


def over(exit_code: int) -> None:
    """The command is done but for the interpreter's own end: a signal then only hastens that."""
    _now.over = exit_code


def asked() -> float | None:
    """When this process was asked to end, by `time.monotonic`; None: it was not."""
    return _now.asked


@contextlib.contextmanager
def held(wake: Callable[[], None] = lambda: None) -> Iterator[Callable[[], bool]]:
    """Within, the first signal only calls `wake`, in the handler; yields whether it came. Nothing presses for an end.

    A second one interrupts. In another thread than the main one, which gets no signals, none is held.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    listening, over = signal.getsignal(signal.SIGALRM) is _on_alarm and _now.over is None, _now.over
    if not listening:  # no command line, or none any more: a notebook, say
        _now.make, _now.asked, _now.over = KeyboardInterrupt, None, None
    before = {number: signal.signal(number, _on_signal) for number in _not_ignored()}
    outer, _now.wake = _now.wake, wake
    try:
        yield lambda: _now.asked is not None
    finally:
        _now.wake, _now.patience = outer, time.monotonic()
        for number, handler in before.items():
            signal.signal(number, handler)
        if not listening:
            _now.asked, _now.over = None, over


def _not_ignored() -> list[signal.Signals]:
    return [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]


def _on_signal(*_: object) -> None:
    now = time.monotonic()
    if _now.over is not None:
        if threading.main_thread().is_alive():
            raise KeyboardInterrupt  # whoever called the command goes on
        os._exit(_now.over)
    if _now.asked is None:
        _now.asked = _now.patience = now
        if _now.heard is not None:
            _now.heard.put(None)
        if _now.wake is not None:
            _now.wake()
            return
    elif now - _now.asked < SAME_S:
        return
    elif _on_its_way():
        os._exit(EXIT_CODE)
    _raise()


def _on_alarm(*_: object) -> None:
    if _now.asked is not None and _now.wake is None and _now.over is None and not _on_its_way():
        _raise()


def _raise() -> None:
    _now.raised = _now.make()
    raise _now.raised


def _on_its_way() -> bool:
    """Whether what was raised is being handled: a `finally`, an `except` or an `__exit__` is at work."""
    error = sys.exc_info()[1]
    while error is not None and error is not _now.raised:
        error = error.__context__
    return error is not None


def _insist(main: int, heard: SimpleQueue[None]) -> None:
    while True:
        heard.get()
        while _now.asked is not None:
            time.sleep(AGAIN_S)
            if _now.wake is not None or (_now.over is not None and threading.main_thread().is_alive()):
                continue
            if time.monotonic() - _now.patience > PATIENCE_S:
                os._exit(EXIT_CODE if _now.over is None else _now.over)
            signal.pthread_kill(main, signal.SIGALRM)
