"""Errors that a user sees as one message: what happened, why, what to do next, and a documented exit code.

Exit codes of both commands:

    0    done
    1    failed (a worker crashed, a loss became non-finite)
    2    usage or configuration (unknown name, key or value)
    3    a store or a run is missing or incompatible
    4    integrity check failed (checksum, truncated or missing file)
    5    not enough space or memory
    130  interrupted by Ctrl-C, SIGTERM or SIGHUP; the message says how to continue

Losing the reader of the output (a closed terminal) changes no exit code; the output is discarded. Bugs are `assert`s
and show their traceback; `--debug` shows the traceback of any error.
"""

from __future__ import annotations

import difflib
import errno
import os
import resource
import shlex
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

from stores.system import interrupts, process, terminal, text


class _Message(BaseException):
    """An exception that ends a command with one message.

    Args:
        what: what happened, in one sentence, with the path or key quoted.
        why: the reason, if it is not obvious.
        hint: what to do next, ideally a command.
    """

    exit_code = 1

    def __init__(self, what: str, why: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what, self.why, self.hint = what, why, hint

    def __str__(self) -> str:
        return "\n".join(part for part in (self.what, self.why, self.hint and f"→ {self.hint}") if part)


class RealMixError(_Message, Exception):
    """An error that the user can fix."""


class UsageError(RealMixError):
    """Unknown name, key or value."""

    exit_code = 2


class StoreError(RealMixError):
    """A store or run that is missing, incomplete, of another version, or another one than expected."""

    exit_code = 3


class StorageError(StoreError):
    """Object storage is unreachable or refuses a request; what was written before stays."""


class IntegrityError(RealMixError):
    """Bytes that are not the ones that were written."""

    exit_code = 4


class ResourceError(RealMixError):
    """Not enough disk space or memory."""

    exit_code = 5


class Interrupted(_Message):
    """Stopped by Ctrl-C, SIGTERM or SIGHUP; finished work is kept. Not an `Exception`, so that nothing catches it."""

    exit_code = interrupts.EXIT_CODE


def suggest(word: str, known: Iterable[str]) -> str:
    """'did you mean …?', or the list of known words.

    >>> suggest("gama", ["gamma", "alpha"])
    'did you mean gamma?'
    """
    known = sorted(known)
    if (twin := text.look_alike(word, known)) is not None:
        return twin
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(text.spelled(known))}"


def install(extra: str) -> str:
    """The hint to install an extra, from a registry or from a checkout.

    >>> install("data")
    "pip install 'realmix[data]', or in a checkout pip install '.[data]'"
    """
    return f"pip install 'realmix[{extra}]', or in a checkout pip install '.[{extra}]'"


def require_place(*targets: Path | None) -> None:
    """Check, before the work whose results go there, that files can be at these paths; None: nobody wants one.

    Raises:
        UsageError: one is a folder, or its folder is missing.
    """
    for target in targets:
        if target is not None and target.is_dir():
            raise UsageError(f"'{target}' is a folder", "a file is to be written", f"a file in it: {target}/NAME")
        if target is not None and not target.resolve().parent.is_dir():
            folder = target.parent
            raise UsageError(
                f"no folder '{folder}' to write '{target.name}' to", hint=f"mkdir -p {shlex.quote(str(folder))}"
            )


def run(command: Callable[[], object]) -> None:
    """Run a command line; a `RealMixError`, a full disk or a lack of memory becomes one message and an exit code."""
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
        message = _message_of(error)
        if message is None:
            raise
        code = message.exit_code
        if isinstance(message, ResourceError):
            _end_quietly()
        _fail(message)
    finally:
        interrupts.over(code if isinstance(code, int) else int(code is not None))


def _interrupted() -> Interrupted:
    return Interrupted("interrupted", hint="run the same command again: it continues")


def _message_of(error: BaseException) -> _Message | None:
    """The message of a command that ends with this error; None for errors that show their traceback."""
    message: _Message | None = None
    if isinstance(error, _Message):
        message = error
    elif out_of_memory(error):
        message = _of_memory(error)
    elif isinstance(error, OSError):
        message = _of_the_system(error)
    if interrupts.asked() is None or isinstance(message, Interrupted):
        return message
    # an interruption may surface as another error: a failed import, an abandoned request
    interrupted = _interrupted()
    interrupted.__cause__ = error
    if message is not None:
        interrupted.why, interrupted.hint = message.what, message.hint or interrupted.hint
    return interrupted


def out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one of its causes, is a lack of memory or of threads.

    Libraries have their own classes for this, and some fail without saying why: an error of a process whose address
    space is used up counts too.
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
    """Whether this process is within 32 MiB of its `ulimit -v`; libraries map more than that at once."""
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
    """Suppress what libraries print while the interpreter ends; the message has been printed."""
    sys.unraisablehook = lambda _: None
    warnings.simplefilter("ignore")


def _of_the_system(error: OSError) -> RealMixError:
    """The message for an error of the operating system."""
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


def _fail(error: _Message) -> None:
    if os.environ.get("REALMIX_DEBUG"):
        raise error
    shown = RealMixError(text.visible(error.what), text.visible_lines(error.why), text.visible(error.hint))
    text.write(f"error: {shown}\n", error=True)
    sys.exit(error.exit_code)
