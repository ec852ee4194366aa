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
import resource
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

from stores.system import interrupts, process, terminal, text


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
    if (twin := text.look_alike(word, known)) is not None:
        return twin
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(text.spelled(known))}"


def run(command: Callable[[], object]) -> None:
    """Run a command line: print a `RealMixError` (or a full disk) as one message and exit with its code."""
    process.prepare()
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
        if isinstance(told, ResourceError):
            _end_quietly()
        _fail(told)
    finally:
        interrupts.over(code if isinstance(code, int) else int(code is not None))


def _interrupted() -> Interrupted:
    return Interrupted("interrupted", hint="run the same command again: it continues")


def _told(error: BaseException) -> _Told | None:
    """What a command says that ends with this error; None: it is none of those that have a message."""
    told: _Told | None = None
    if isinstance(error, _Told):
        told = error
    elif out_of_memory(error):
        told = _of_memory(error)
    elif isinstance(error, OSError):
        told = _of_the_system(error)
    if interrupts.asked() is None or isinstance(told, Interrupted):
        return told
    # whatever the interruption became on its way: an import that failed, a request that was given up
    interrupted = _interrupted()
    interrupted.__cause__ = error
    if told is not None:
        interrupted.why, interrupted.hint = told.what, told.hint or interrupted.hint
    return interrupted


def out_of_memory(error: BaseException) -> bool:
    """Whether memory, or room for one more thread, is what was lacking: every library has its own class for that.

    What failed first may have led to other errors, and some code fails for lack of memory without saying so.
    """
    cause: BaseException | None = error
    while isinstance(cause, Exception):
        said = str(cause).lower()
        if isinstance(cause, MemoryError) or getattr(cause, "errno", None) == errno.ENOMEM:
            return True
        if any(words in said for words in _NO_MEMORY):
            return True
        cause = cause.__cause__ or cause.__context__
    return isinstance(error, Exception) and not isinstance(error, OSError) and _address_space_is_used_up()


def _address_space_is_used_up() -> bool:
    """Whether this process is within 32 MiB of its `ulimit -v`: many a library maps more than that at once."""
    limit, statm = resource.getrlimit(resource.RLIMIT_AS)[0], Path("/proc/self/statm")
    if limit == resource.RLIM_INFINITY or not statm.is_file():
        return False
    return int(statm.read_text().split()[0]) * resource.getpagesize() > limit - (32 << 20)


_NO_MEMORY = (
    "out of memory",
    "not enough memory",
    "insufficient memory",
    "can't allocate memory",
    "cannot allocate memory",
    "can't start new thread",
    "failed to map segment",
    "bad_alloc",
)


def _of_memory(error: BaseException) -> RealMixError:
    why = str(error).strip().partition("\n")[0]
    less = "close other programs, raise the limit (`ulimit -v`), or ask for less: fewer --workers, a smaller --batch"
    return ResourceError("not enough memory", why, f"{less}; the same command continues what it began")


def _end_quietly() -> None:
    """Drop what libraries print at the interpreter's end about what they could not begin: the message is said."""
    sys.unraisablehook = lambda _: None
    warnings.simplefilter("ignore")


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
    shown = RealMixError(text.visible(error.what), text.visible_lines(error.why), text.visible(error.hint))
    text.write(f"error: {shown}\n", error=True)
    sys.exit(error.exit_code)
