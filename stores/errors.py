"""One clear error for a user's mistake: what happened, why, what to do next, and a documented exit code.

Exit codes of both commands:

    0    done
    1    failed (a worker crashed, a loss became non-finite)
    2    usage or configuration (unknown name, key or value)
    3    a store or a run is missing or incompatible
    4    integrity check failed (checksum, truncated or missing file)
    5    not enough space or memory
    130  interrupted by Ctrl-C, SIGTERM or SIGHUP; the message says how to continue

A reader that goes away, a closed terminal's too, changes no exit code: what is printed then is dropped.
Broken invariants of our own are `assert`s and keep their traceback; `--debug` shows the traceback of any error.
"""

from __future__ import annotations

import difflib
import errno
import os
import sys
from collections.abc import Callable, Iterable

from stores import interrupts, terminal


class _Told(BaseException):
    """What ends a command with one message.

    Args:
        what: what happened, one sentence, with the path or key quoted.
        why: the reason, if it is not obvious.
        hint: what to do next, ideally a command.
    """

    exit_code = 1

    def __init__(self, what: str, why: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what, self.why, self.hint = what, why, hint

    def __str__(self) -> str:
        return "\n".join(part for part in (self.what, self.why, self.hint and f"→ {self.hint}") if part)


class RealMixError(_Told, Exception):
    """A mistake that the user can mend."""


class UsageError(RealMixError):
    """Unknown name, key or value."""

    exit_code = 2


class StoreError(RealMixError):
    """A store or run that is missing, incomplete, of another version, or not the one expected."""

    exit_code = 3


class StorageError(StoreError):
    """Object storage that cannot be reached or refuses; what was written before stays."""


class IntegrityError(RealMixError):
    """Bytes on disk that are not the bytes that were written."""

    exit_code = 4


class ResourceError(RealMixError):
    """Not enough disk or memory."""

    exit_code = 5


class Interrupted(_Told):
    """Stopped by Ctrl-C, SIGTERM or SIGHUP; what was done is kept. No `Exception`: nobody may take it for a failure."""

    exit_code = interrupts.EXIT_CODE


def suggest(word: str, known: Iterable[str]) -> str:
    """'did you mean …?' or the list of what is known.

    >>> suggest("gama", ["gamma", "alpha"])
    'did you mean gamma?'
    """
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"


def run(command: Callable[[], object]) -> None:
    """Run a command line: print a `RealMixError` (or a full disk) as one message and exit with its code."""
    terminal.outlive()
    code: object = 1
    try:
        try:
            interrupts.listen(_interrupted)
            command()
        finally:
            terminal.flush()
    except SystemExit as end:
        code = end.code
        raise
    except (Exception, Interrupted) as error:
        told = _told(error)
        if told is None:
            raise
        code = told.exit_code
        _fail(told)
    finally:
        interrupts.over(code if isinstance(code, int) else int(code is not None))


def _interrupted() -> Interrupted:
    return Interrupted("interrupted", hint="run the same command again: it continues")


def _told(error: BaseException) -> _Told | None:
    """What a command says that ends with this error; None: it is none of those that have a message."""
    told = _of_the_system(error) if isinstance(error, OSError) else error if isinstance(error, _Told) else None
    if interrupts.asked() is None or isinstance(told, Interrupted):
        return told
    # whatever the interruption became on its way: an import that failed, a request that was given up
    interrupted = _interrupted()
    interrupted.__cause__ = error
    if told is not None:
        interrupted.why, interrupted.hint = told.what, told.hint or interrupted.hint
    return interrupted


def _of_the_system(error: OSError) -> RealMixError:
    """What the operating system refused, as a message."""
    where = f"'{os.fsdecode(error.filename)}'" if error.filename else "a file"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(
            f"the disk is full: {where}", hint="free some space and run the same command again: it continues"
        )
    if error.errno == errno.EFBIG:
        return ResourceError(
            f"{where} would exceed this process's file size limit", hint="raise it: `ulimit -f unlimited`"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreError(f"no permission for {where}", error.strerror or "", "choose a folder you may write to")
    return RealMixError(f"{where}: {error.strerror or error}", "the system refused it", "--debug shows where")


def _fail(error: _Told) -> None:
    if os.environ.get("REALMIX_DEBUG"):
        raise error
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
