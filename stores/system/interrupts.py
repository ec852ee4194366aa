"""Ctrl-C, SIGTERM and SIGHUP as one exception in the main thread, which cannot get lost.

An exception raised by a signal handler can be swallowed: in a destructor or a callback, where Python only prints it, or
in an import that catches everything. So a thread checks every half second whether the exception is being handled; if
not, it is raised again. A process that has not ended after `PATIENCE_S`, or gets a second signal, is ended at once;
files on disk are complete even after a kill.

Signals that the caller ignores (nohup, background jobs) stay ignored.
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
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
EXIT_CODE = 130
AGAIN_S = 0.5  # until an exception that got lost is raised again
SAME_S = 1.0  # signals within this time count as one: a closing terminal sends SIGHUP twice
IMPORT_S = 1.0  # for an import to end
PATIENCE_S = 20.0  # for clean-up
SHOW_CURSOR = b"\r\x1b[2K\x1b[?25h"  # and clear the line, which may be a progress bar's


class _State:
    """State of this process's handlers."""

    make: Callable[[], BaseException] = KeyboardInterrupt
    raised: BaseException | None = None  # the latest exception
    asked: float | None = None  # time of the first signal
    patience: float = 0.0  # start of `PATIENCE_S`
    wake: Callable[[], None] | None = None  # set within `held`
    at_once: bool = False  # set within `at_once`
    hint: Callable[[], str] | None = None  # set within `hinted`
    over: int | None = None  # exit code, once the command is over
    heard: SimpleQueue[None] | None = None  # the thread waits for it


_now = _State()


def listen(make: Callable[[], BaseException]) -> None:
    """Make the first signal raise `make()` in the main thread, until `over`; call it from the main thread."""
    _now.make, _now.asked, _now.raised, _now.over = make, None, None, None
    if _now.heard is None:
        _now.heard = SimpleQueue()
        threading.Thread(target=_insist, args=(threading.get_ident(), _now.heard), name="signals", daemon=True).start()
    signal.signal(signal.SIGALRM, _on_alarm)
    for number in _not_ignored():
        signal.signal(number, _on_signal)


def over(exit_code: int) -> None:
    """Report that the command is done; a signal then ends the process with this exit code."""
    _now.over = exit_code


def asked() -> float | None:
    """Time of the first signal by `time.monotonic`; None: there was none."""
    return _now.asked


@contextlib.contextmanager
def held(wake: Callable[[], None] = lambda: None) -> Iterator[Callable[[], bool]]:
    """Hold back the first signal within the block: it only calls `wake`; a second signal interrupts.

    In threads other than the main one, which get no signals, this does nothing.

    Args:
        wake: called in the signal handler.

    Yields:
        A function that tells whether a signal has come.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    listening, over = signal.getsignal(signal.SIGALRM) is _on_alarm and _now.over is None, _now.over
    if not listening:  # no command is running: a notebook, say
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


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """End the process at the first signal within the block, where a library would not let go of an exception.

    Nothing may be lost by that. Where no command is running (a notebook), and in threads other than the main one, this
    does nothing.
    """
    listening = signal.getsignal(signal.SIGALRM) is _on_alarm and _now.over is None
    if not listening or threading.current_thread() is not threading.main_thread():
        yield
        return
    if _now.asked is not None:
        _end()
    _now.at_once = True
    try:
        yield
    finally:
        _now.at_once = False


@contextlib.contextmanager
def hinted(hint: Callable[[], str]) -> Iterator[None]:
    """Say how to continue, in the message of a process that is ended within the block; "" leaves it as it is."""
    outer, _now.hint = _now.hint, hint
    try:
        yield
    finally:
        _now.hint = outer


def _end() -> NoReturn:
    """End the process with the message of an interruption, whatever the main thread is doing."""
    error = _now.make()
    if _now.hint is not None and (hint := _now.hint()) and hasattr(error, "hint"):
        error.hint = hint
    with contextlib.suppress(OSError):
        os.write(2, SHOW_CURSOR * os.isatty(2) + f"error: {error}\n".encode(errors="backslashreplace"))
    os._exit(EXIT_CODE)


def _not_ignored() -> list[signal.Signals]:
    return [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]


def _on_signal(_: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _now.over is not None:
        if threading.main_thread().is_alive():
            raise KeyboardInterrupt  # the caller of the command goes on
        os._exit(_now.over)
    if _now.asked is None:
        _now.asked = _now.patience = now
        if _now.heard is not None:
            _now.heard.put(None)
        if _now.at_once:
            _end()
        if _now.wake is not None:
            _now.wake()
            return
    elif now - _now.asked < SAME_S:
        return
    elif _on_its_way() or _importing(frame):
        os._exit(EXIT_CODE)
    if not _importing(frame):
        _raise()


def _on_alarm(_: int, frame: FrameType | None) -> None:
    idle = _now.asked is not None and _now.wake is None and _now.over is None and not _on_its_way()
    if idle and not _importing(frame):
        _raise()


def _importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported: C++ code that is being initialised would abort by the exception."""
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def _raise() -> None:
    _now.raised = _now.make()
    raise _now.raised


def _on_its_way() -> bool:
    """Whether the exception is being handled: a `finally`, `except` or `__exit__` is running."""
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
            waited = time.monotonic() - _now.patience
            if _now.over is None and waited > IMPORT_S and _importing(sys._current_frames().get(main)):
                _end()
            if waited > PATIENCE_S:
                os._exit(EXIT_CODE if _now.over is None else _now.over)
            signal.pthread_kill(main, signal.SIGALRM)
