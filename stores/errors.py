"""One clear error for a user's mistake: what happened, why, what to do next, and a documented exit code.

Exit codes of both commands:

    0    done
    1    failed (a worker crashed, a loss became non-finite)
    2    usage or configuration (unknown name, key or value)
    3    a store or a run is missing or incompatible
    4    integrity check failed (checksum, truncated or missing file)
    5    not enough space or memory
    130  interrupted; the message says how to continue

Broken invariants of our own are `assert`s and keep their traceback; `--debug` shows the traceback of any error.
"""

from __future__ import annotations

import difflib
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterable

from stores import process, text


class RealMixError(Exception):
    """A mistake that the user can mend.

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


class Interrupted(RealMixError):
    """Stopped by Ctrl-C or SIGTERM; what was done is kept."""

    exit_code = 130


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
    # not KeyboardInterrupt: the command-line library would swallow it and say only "Aborted"
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, _interrupt)
    try:
        command()
    except RealMixError as error:
        _fail(error)
    except OSError as error:
        _fail(_of_the_system(error))
    except Exception as error:  # no class is common to all that run out of memory
        if not out_of_memory(error):
            raise
        _fail(_of_memory(error))
    finally:
        text.write("")  # what is still held back, if anybody reads it


def _interrupt(*_: object) -> None:
    raise Interrupted("interrupted", hint="run the same command again: it continues")


def out_of_memory(error: BaseException) -> bool:
    """Whether memory, or room for one more thread, is what was lacking: every library has its own class for that."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    said = str(error).lower()
    return isinstance(error, Exception) and any(words in said for words in _NO_MEMORY)


_NO_MEMORY = (
    "out of memory", "not enough memory", "insufficient memory", "can't allocate memory", "cannot allocate memory",
    "can't start new thread", "failed to map segment", "bad_alloc",
)  # fmt: skip


def _of_memory(error: BaseException) -> RealMixError:
    why = str(error).strip().partition("\n")[0]
    less = "close other programs, raise the limit (`ulimit -v`), or ask for less: fewer --workers, a smaller --batch"
    return ResourceError("not enough memory", why, f"{less}; the same command continues what it began")


def _of_the_system(error: OSError) -> RealMixError:
    """What the operating system refused, as a message."""
    if out_of_memory(error):
        return _of_memory(error)
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


def _fail(error: RealMixError) -> None:
    if os.environ.get("REALMIX_DEBUG"):
        raise error
    shown = RealMixError(text.visible(error.what), text.visible_lines(error.why), text.visible(error.hint))
    text.write(f"error: {shown}\n", error=True)
    sys.exit(error.exit_code)
