"""Progress of long jobs: one rich bar a stage with rate and time left; on a pipe, one line every ten seconds."""

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
        self._began: dict[str, tuple[float, int]] = {}  # when a stage's first items were there, and how many
        self._said = time.monotonic()

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def update(self, what: str, done: int, of: int) -> None:
        """`done` of `of` items of the stage `what` are ready; 0 = nobody knows how many there are."""
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=of or None, completed=done)
        self._bars.update(self._tasks[what], completed=done, total=of or None)
        now = time.monotonic()
        if done:  # neither what an earlier build made nor what precedes the first item says how fast items are made
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
