"""A run that `realmix-train reproduce` started stops, saving, when its parent is gone.

The parent holds the other end of the pipe that is this process's standard input. It is closed with the parent, however
that ends and however early: there is no moment at which it could go unnoticed.
"""

from __future__ import annotations

import os
import signal
import threading

ASKED = "REALMIX_END_WITH_STDIN"  # in the environment of such a run
STDIN = 0


def end_with_parent() -> None:
    """SIGTERM for this process when its standard input ends."""
    threading.Thread(target=_wait_for_end, name="parent", daemon=True).start()


def _wait_for_end() -> None:
    while os.read(STDIN, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
