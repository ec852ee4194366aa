"""Progress of long jobs: a rich bar for each stage with rate and time left; on a pipe, a line every ten seconds."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from stores.system.text import say

LINE_EVERY_S = 10.0


class Bars:
    """Context manager; `update(what, done, of)` moves the bar of that stage."""

    def __init__(self, *, quiet: bool = False) -> None:
        console = Console(stderr=True)
        self._quiet = quiet
        self._terminal = console.is_terminal
        columns = (
            TextColumn("{task.description:>20}", markup=False),
            BarColumn(),
            _Count(),
            _Rate(),
            TimeRemainingColumn(compact=True),
        )
        self._bars = Progress(*columns, console=console, disable=quiet or not self._terminal)
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, tuple[float, int]] = {}  # when a stage's first items were done, and how many
        self._said = self._started = time.monotonic()

    def seconds(self) -> float:
        """Time since this was made, in seconds."""
        return round(time.monotonic() - self._started, 2)

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def update(self, what: str, done: int, of: int) -> None:
        """Report that `done` of `of` items of a stage are done; `of` is 0 if the total is unknown."""
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=of or None, completed=done)
        self._bars.update(self._tasks[what], completed=done, total=of or None)
        now = time.monotonic()
        if done:  # the rate counts neither items of an earlier build nor the time before the first item
            self._began.setdefault(what, (now, done))
        if not self._quiet and not self._terminal and now - self._said > LINE_EVERY_S:
            self._said = now
            since, before = self._began.get(what, (now, done))
            left = f", about {(now - since) * (of - done) / (done - before):.0f} s left" if of and done > before else ""
            say(f"{what}: {done:,}" + (f" of {of:,}{left}" if of else ""), error=True)


class _Count(ProgressColumn):
    def render(self, task: Task) -> Text:
        of = "" if task.total is None else f"/{int(task.total):,}"
        return Text(f"{int(task.completed):,}{of}", style="progress.download")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed else "", style="progress.data.speed")
