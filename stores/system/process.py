"""What both commands ask of their process before anything else: three open streams, and children that are safe."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from stores.system import terminal


def prepare() -> None:
    """Open the standard streams that the caller closed, let them take any text, keep the current folder out of imports.

    A closed stream would give its number to the next file that is opened, and what a library says would be written
    into that. The streams' encoding is the terminal's: what it lacks is shown as an escape. Whoever reads them may go.
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
    # Python starts `-m` and `-c` with the current folder as the first place of modules: a `rich.py` there would be run
    os.environ["PYTHONSAFEPATH"] = "1"
