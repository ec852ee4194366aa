"""Preparation of the process that both commands begin with: standard streams and a safe import path."""

from __future__ import annotations

import os
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
