"""This process: what both commands begin with, and what the system gives it, on Linux and elsewhere."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

from stores.system import terminal


def prepare() -> None:
    """Open closed standard streams, make them accept any text, and keep the current folder out of imports.

    If standard error were closed, the next file opened would get its number, and a library's messages would be written
    into that file. Characters that the terminal's encoding lacks are written as escapes.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:  # the lowest that is free
        os.set_inheritable(number, True)
    os.close(number)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 open until the end
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not one that a test put there
            stream.reconfigure(errors="backslashreplace")
    terminal.outlive()
    # children started with `-m` or `-c` look for modules in the current folder first: a `rich.py` there would be run
    os.environ["PYTHONSAFEPATH"] = "1"


def cores() -> int:
    """Cores that this process may use; all of the machine's where a system cannot keep processes to some of them."""
    usable = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    return len(usable(0)) if usable is not None else os.cpu_count() or 1


def peak_memory() -> int:
    """Most bytes of memory that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
