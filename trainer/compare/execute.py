"""Training the missing runs of a comparison one after the other in this process: starting one costs nothing."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from stores.errors import Interrupted, RealMixError
from trainer import api
from trainer.reproduce.execute import POLL_S, Failure, Progress
from trainer.reproduce.plan import Planned
from trainer.runs.console import last_line


def execute(runs: Sequence[Planned], quiet: bool = False) -> list[Failure]:
    """Train all runs that are not finished; if one fails, the others go on.

    Args:
        runs: in this order.
        quiet: show no progress.

    Returns:
        the runs that failed.

    Raises:
        Interrupted: Ctrl-C, SIGTERM or SIGHUP; the run that was being trained is saved.
    """
    failures = []
    waiting = [run for run in runs if not run.finished]
    with Progress(list(runs), quiet) as progress:
        for run in waiting:
            try:
                with _shown(progress, run):
                    result = _train(run)
            except RealMixError as error:
                failures.append(Failure(run, str(error)))
                progress.say(f"{run.path}: failed: {error.what}")
            except Interrupted:
                why = "the runs that are finished stay, the one that was being trained is saved"
                raise Interrupted("interrupted", why, "the same command continues") from None
            else:
                progress.say(last_line(run.path, result))
    return failures


def _train(run: Planned) -> dict[str, Any]:
    if (run.path / "config.json").exists():
        return api.resume(run.path, quiet=True)[1]
    assert run.spec is not None, "planned a moment ago"
    torch.set_num_threads(run.spec.run.threads or torch.get_num_threads())  # the last one that was planned had its own
    return api.execute(run.spec, run.path, quiet=True)


@contextlib.contextmanager
def _shown(progress: Progress, run: Planned) -> Iterator[None]:
    """Within, a thread shows how far the run is, from the lines that it writes."""
    over = threading.Event()

    def show() -> None:
        while not over.wait(POLL_S):
            progress.show([run])

    thread = threading.Thread(target=show, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
