"""What a person sees of a run: header, progress line, evaluations, last line.

A terminal gets a progress line that fits it, and a line for each evaluation; anything else the latter alone. After the
first steps there is one line about how long the run takes. All of it goes to stderr except the last line, which names
the run and its error. Nothing here reads a tensor, so it never makes the loop wait.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stores.system.text import say, visible
from trainer.config import changed
from trainer.data import embedded
from trainer.data.embedded import EmbeddedSplit
from trainer.functional.foreign import share_told

if TYPE_CHECKING:
    from trainer.data.loader import Loader
    from trainer.runs.record import Spec

REDRAW_S = 0.2
BAR = 20  # columns
SOON_S = 10.0  # of a run that ends sooner nobody needs to know when
WARM, TIMED = 2, 3  # steps before its pace is measured: they compile; and steps that the first estimate is made of


class Console:
    """Progress of one run.

    Args:
        steps: length of the run; start: updates done before.
        images_per_step: for the images/s.
        quiet: show nothing but the last line.
        estimate: the line about a run that has so many seconds to go.
    """

    def __init__(
        self,
        steps: int,
        start: int,
        images_per_step: int,
        quiet: bool = False,
        estimate: Callable[[float], str] | None = None,
    ) -> None:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, Progress, TextColumn

        self._steps, self._start, self._images, self._quiet = steps, start, images_per_step, quiet
        self._estimate = estimate
        self._console = RichConsole(stderr=True, highlight=False, soft_wrap=True)
        self._losses: list[str] = []
        self._error = ""
        self._shown = time.perf_counter()
        self._from = self._at = (start, self._shown, 0.0)  # step, time, seconds waited for data
        self._progress: Progress | None = None
        if self._console.is_terminal and not quiet:
            columns = (BarColumn(bar_width=BAR), TextColumn("{task.description}", markup=False))
            self._progress = Progress(*columns, console=self._console, transient=True, auto_refresh=False)
            self._task = self._progress.add_task("", total=steps, completed=start)

    def __enter__(self) -> Console:
        self._shown = time.perf_counter()
        self._from = self._at = (self._start, self._shown, 0.0)
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def say(self, text: str) -> None:
        """One line."""
        if not self._quiet:
            self._console.print(visible(text), markup=False, emoji=False)

    def tick(self, step: int, waited: float) -> None:
        """After every step: redraw, if it is time. `waited`: seconds spent waiting for data so far."""
        now = time.perf_counter()
        self._at = step, now, waited
        if step - self._start <= WARM:
            self._from = self._at
        elif self._estimate is not None and step - self._from[0] >= TIMED:
            self._say_estimate(self._estimate)
        if self._quiet or self._progress is None or now - self._shown < REDRAW_S:
            return
        self._shown = now
        line = self.line(self._console.width - BAR - 1)
        self._progress.update(self._task, completed=step, description=line, refresh=True)

    def _say_estimate(self, estimate: Callable[[float], str]) -> None:
        self._estimate = None
        seconds = self._left()
        if not self._quiet and seconds is not None and seconds > SOON_S:
            self.say(estimate(seconds))

    def _left(self) -> float | None:
        """Seconds to go at the pace since the first steps; None: there is no pace yet."""
        (start, began, _), (step, now, _) = self._from, self._at
        return (self._steps - step) * (now - began) / (step - start) if step > start else None

    def line(self, width: int | None = None) -> str:
        """Step, last error, time to go, losses, images/s, data wait: as many of them as `width` columns take."""
        (start, began, before), (step, now, waited) = self._from, self._at
        parts, left = [f"step {step:,}/{self._steps:,}", self._error], self._left()
        if left:
            parts.append(f"{duration(left)} to go")
        parts += self._losses
        if step > start and now > began:
            rate = (step - start) * self._images / (now - began)
            parts += [f"{rate:,.0f} img/s", f"data wait {100 * (waited - before) / (now - began):.0f} %"]
        parts = [part for part in parts if part]
        while width is not None and len(parts) > 1 and len(" · ".join(parts)) > width:
            del parts[-1]
        return " · ".join(parts)

    def logged(self, record: Mapping[str, Any]) -> None:
        """Take the losses of a line of metrics.jsonl."""
        self._losses = [f"{name} {value:.3g}" for name, value in record.items() if name.startswith("loss")]

    def evaluated(self, record: Mapping[str, Any]) -> None:
        """Show an evaluation."""
        valid = f", valid {record['valid_error']:.2f} %" if "valid_error" in record else ""
        self._error = f"error {record['test_error']:.2f} %{valid}"
        self._at = record["step"], *self._at[1:]
        self.say(self.line(None if self._progress is None else self._console.width))


def header(spec: Spec, loader: Loader) -> list[str]:
    """What a run is, in a few lines: store, data, method and what differs from its defaults or the papers."""
    store, run, views = spec.store, spec.run, loader.views
    pool = f"{loader.num_unlabeled:,} unlabelled" + (f" × {loader.copies} copies" if loader.copies else "")
    if not views.unlabeled:
        pool = "no unlabelled images"
    elif views.labeled_in_unlabeled:
        pool += " (labelled ones among them)"
    else:
        pool += " (without the labelled ones)"
    settings = ", ".join(f"{name}={value}" for name, value in changed(spec.settings).items()) or "defaults"
    lines = [
        f"store   {store.path}  {store.fingerprint[:12]}  protocol {store.protocol}, {store.num_classes} classes",
        f"data    {len(store.labeled):,} labelled, {pool}, {len(store.test):,} test, {len(store.valid):,} validation; "
        + str(loader.placement),
        f"method  {run.method}: {settings}",
        f"run     {run.model}, {run.steps:,} steps of {run.batch}, seed {run.seed}, {run.device} {run.precision}"
        + (f", {run.threads} threads" if run.device == "cpu" else ""),
    ]
    init = [] if run.init is None else [f"init    {run.init}"]
    if isinstance(store, EmbeddedSplit):
        lines.insert(1, f"embeds  {embedded.describe(store, views)}")
    return lines + [f"differs {text}" for text in spec.deviations] + init


def last_line(path: Path, result: Mapping[str, Any]) -> str:
    """What a run came to: `runs/NAME: error 12.34 % (median of last 20: 12.50 %, steps 2500)`.

    Of a pool that may hold anything, it says how many images look foreign, too.
    """
    said = (
        f"{path}: error {result['error_last']:.2f} % "
        f"(median of last {result['median_of']}: {result['error_median20']:.2f} %, steps {result['steps']})"
    )
    foreign = result.get("foreign")
    if foreign is None or not foreign["told"]:
        return said
    told = share_told(foreign["share"], foreign["interval"], "your")
    return f"{said}; {told}: `realmix-train foreign {path}`"


def show_result(text: str, as_json: str | None) -> None:
    """The end of a run: on stdout the last line, or with --json the result alone and the line on stderr."""
    if as_json is None:
        say(text)
    else:
        say(text, error=True)
        say(as_json)


def duration(seconds: float) -> str:
    """`3:07`, `1:02:03`, `5 d 3 h`."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
