"""Training the missing runs of a plan: each in its own process, several in parallel; interrupted runs continue.

The processes share only the folder of runs. If this process ends, for whatever reason, they save their state and end.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from stores.system import interrupts
from stores.system.text import visible
from trainer.reproduce.child import ASKED
from trainer.reproduce.plan import Planned
from trainer.runs import metrics

POLL_S = 0.2
GRACE_S = 60.0  # for runs to save their state when they are stopped


@dataclass(frozen=True)
class Failure:
    """A run that did not finish.

    Attributes:
        run: the run.
        reason: its error message.
    """

    run: Planned
    reason: str


def execute(runs: Iterable[Planned], jobs: int, options: tuple[str, ...] = (), gpus: int = 0) -> list[Failure]:
    """Train all runs that are not finished; if one fails, the others go on.

    Args:
        runs: the runs of a plan.
        jobs: number of runs trained in parallel.
        options: further arguments of new runs, such as ("--threads", "1").
        gpus: number of GPUs that the runs are distributed over; 0: all runs see the same devices.

    Returns:
        Runs that failed, and runs that would have started from one of those.
    """
    distinct = list({run.path: run for run in runs}.values())
    waiting = [run for run in distinct if not run.finished]
    active: dict[int, _Process] = {}  # by slot, 0 … jobs − 1
    failures: list[Failure] = []
    with Progress(distinct) as progress:
        try:
            while waiting or active:
                failed = {failure.run.path for failure in failures}
                for place in sorted(set(range(jobs)) - set(active)):
                    run = _next(waiting, failed)
                    if run is not None:
                        with interrupts.held():  # so that every started process is in `active`
                            active[place] = _Process(run, options, place % gpus if gpus else None)
                for run in [run for run in waiting if run.init in failed]:
                    waiting.remove(run)
                    failures.append(Failure(run, f"'{run.init}' failed, which it starts from"))
                for place, process in list(active.items()):
                    if process.poll():
                        del active[place]
                        failures += [Failure(process.run, process.reason)] if process.reason else []
                        progress.say(process.last_line)
                progress.show([process.run for process in active.values()])
                time.sleep(POLL_S)
        finally:
            with interrupts.held():  # while they save their state
                for process in active.values():
                    process.stop()
                until = time.monotonic() + GRACE_S
                for process in active.values():
                    process.wait(until)
    return failures


def _next(waiting: list[Planned], failed: set[Path]) -> Planned | None:
    """Take the first run whose initial network, if it needs one, has been trained."""
    for run in waiting:
        if run.init is None or (run.init not in failed and (run.init / "result.json").is_file()):
            waiting.remove(run)
            return run
    return None


def interpreter(folder: Path) -> list[str]:
    """Options of a Python that is started in a folder: what is called `trainer` there is not taken for this package."""
    return [] if folder == Path(__file__).resolve().parents[2] else ["-P"]


class _Process:
    """A run that is being trained.

    Attributes:
        run: the run.
        last_line: the last line of its output, once it has ended.
        reason: its error message; "" if it has not failed.
    """

    def __init__(self, run: Planned, options: tuple[str, ...], gpu: int | None) -> None:
        self.run, self.reason, self.last_line = run, "", ""
        environment = {**os.environ, ASKED: "1"}
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = str(gpu)
        words = [*run.words, "--quiet"]
        if "--resume" not in words:
            words += options
        # in its own session, so that Ctrl-C reaches it only through `stop`; its standard input is a pipe, which closes
        # when this process ends, for whatever reason, and ends the run
        self._out, self._said = TemporaryFile("w+"), TemporaryFile("w+")  # noqa: SIM115 an unread pipe could fill up
        self._process = subprocess.Popen(
            [sys.executable, *interpreter(Path.cwd()), "-m", "trainer", *words],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=self._out,
            stderr=self._said,
            start_new_session=True,
        )

    def poll(self) -> bool:
        """Whether it has ended."""
        if self._process.poll() is None:
            return False
        assert self._process.stdin is not None
        with self._process.stdin, self._out, self._said:
            self._out.seek(0)
            self._said.seek(0)
            out, said = self._out.read(), self._said.read()
        self.last_line = (out.strip().splitlines() or [f"{self.run.path}: failed"])[-1]
        if self._process.returncode:
            self.reason = said.strip().removeprefix("error: ") or f"it ended with code {self._process.returncode}"
            self.last_line = f"{self.run.path}: failed: {self.reason.splitlines()[0]}"
        return True

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()

    def wait(self, until: float) -> None:
        try:
            self._process.wait(timeout=max(0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdin is not None
        for file in (self._process.stdin, self._out, self._said):
            file.close()


class Progress:
    """A progress bar over the steps of all runs and one for each active run, on a terminal; a line for each end."""

    def __init__(self, runs: list[Planned], quiet: bool = False) -> None:
        from rich import progress
        from rich.console import Console

        self._runs = runs
        self._console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=quiet)
        columns = (
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(bar_width=20),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(compact=True),
        )
        self._bars = progress.Progress(
            *columns, console=self._console, transient=True, disable=quiet or not self._console.is_terminal
        )
        done = self._done = sum(run.steps for run in runs if run.finished)
        self._whole = self._bars.add_task("", total=sum(run.steps for run in runs), completed=done)
        self._tasks: dict[Path, int] = {}

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def say(self, line: str) -> None:
        finished = sum(run.finished for run in self._runs)
        self._console.print(visible(f"[{finished}/{len(self._runs)}] {line}"), markup=False, emoji=False)

    def show(self, active: list[Planned]) -> None:
        if self._bars.disable:
            return
        steps = {run.path: _step(run.path) for run in active}
        finished = [run for run in self._runs if run.finished]
        description = f"{len(finished)} of {len(self._runs)} runs"
        completed = sum(run.steps for run in finished) + sum(steps.values())
        self._bars.update(self._whole, description=description, completed=completed)
        for path in set(self._tasks) - set(steps):
            self._bars.remove_task(self._tasks.pop(path))  # type: ignore[arg-type]
        for run in active:
            if run.path not in self._tasks:
                self._tasks[run.path] = self._bars.add_task(f"  {visible(run.path.name)}", total=run.steps)
            self._bars.update(self._tasks[run.path], completed=steps[run.path])  # type: ignore[arg-type]


def _step(path: Path) -> int:
    """The step of a run, from the last complete line of its metrics.jsonl."""
    try:
        with (path / metrics.FILE).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            lines = file.read().split(b"\n")[1:-1]
    except OSError:
        return 0
    return next((record["step"] for data in reversed(lines) if (record := metrics.parse(data)) is not None), 0)
