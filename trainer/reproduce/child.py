"""A run that `realmix-train reproduce` started: `realmix-train` that stops, saving, if its parent is gone."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from trainer.cli import main

PR_SET_PDEATHSIG = 1  # prctl(2)


def end_with_parent(parent: int) -> None:
    """Ask the kernel for a SIGTERM when the parent process ends, however it ends. Linux only; elsewhere nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it was gone before we asked
            sys.exit("the process that started this run is gone")


if __name__ == "__main__":
    end_with_parent(os.getppid())
    main()
