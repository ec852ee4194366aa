"""Ending a run that `realmix-train reproduce` started when its parent ends; the run saves its state.

The standard input of the run is a pipe from the parent, which closes when the parent ends, however and whenever that
is.
"""

from __future__ import annotations

import os
import signal
import threading

ASKED = "REALMIX_END_WITH_STDIN"  # environment variable of such a run
STDIN = 0


def end_with_parent() -> None:
    """Send SIGTERM to this process when its standard input ends."""
    threading.Thread(target=_wait_for_end, name="parent", daemon=True).start()


def _wait_for_end() -> None:
    while os.read(STDIN, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
