"""What a run writes and shows when it is due: lines, pictures, evaluations, checkpoints.

Of several processes the first one writes; the others have a recorder that only keeps the time. None of it counts as
training time.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stores.errors import RealMixError
from trainer import distributed
from trainer.augment.views import Raw, make_batch
from trainer.functional import schedules
from trainer.loop.parts import Parts
from trainer.runs import checkpoint
from trainer.runs.console import Console
from trainer.runs.run_dir import Run
from trainer.runs.trackers.curves import Curves


class Recorder:
    """Writes what is due into a run's directory, its trackers and the console.

    Args:
        parts: the run.
        folder: its directory.
        console: where a person follows it.
        curves: its trackers; None: none.
    """

    def __init__(self, parts: Parts, folder: Run, console: Console, curves: Curves | None = None) -> None:
        self._parts, self._folder, self._console, self._curves = parts, folder, console, curves
        self._state, self._run = parts.state, parts.spec.run
        self._writes = distributed.rank() == 0
        self._clock = _Clock(parts.state.seconds)

    @property
    def path(self) -> Path:
        """The run's directory."""
        return self._folder.path

    def tick(self, waited: float) -> None:
        """After every step; `waited`: seconds spent waiting for data so far."""
        self._console.tick(self._state.step, waited)

    def aside(self) -> contextlib.AbstractContextManager[None]:
        """What happens within is not training time."""
        return self._clock.aside()

    def log(self, waited: float) -> None:
        """A line with the means of the steps since the last one."""
        run, state = self._run, self._state
        steps = state.telemetry.pending
        lr = schedules.learning_rate(run.lr_schedule, run.lr, state.step - 1, run.scheduled, run.warmup)
        means = state.telemetry.flush()
        seconds, wait = self._clock.lap(waited)
        record = {
            "kind": "train",
            "step": state.step,
            "lr": lr,
            **means,
            "images_per_s": steps * self._parts.loader.images_per_step / seconds,
            "data_wait": wait / seconds,
            "seconds": self._clock.total,
        }
        self._write(record)
        self._console.logged(record)

    def evaluate(self) -> None:
        """Evaluate the averaged weights, at the last step the live ones too; by the first process."""
        if not self._writes:
            return
        state, run = self._state, self._run
        with self.aside():
            raw = run.eval_raw or state.step == run.steps
            errors, state.confusion = self._parts.evaluator.run(state.ema, raw=raw)
        state.history.append({"step": state.step, **errors})
        record = {"kind": "eval", **state.history[-1], "seconds": self._clock.total}
        self._write(record)
        if self._curves is not None:
            self._curves.confusion(state.confusion, self._parts.spec.store.class_names, state.step)
        self._console.evaluated(record)

    def show(self, raw: Raw) -> None:
        """The batch of the step that is about to be made, as the network sees it."""
        if self._curves is None:
            return
        spec = self._parts.spec
        with self.aside():
            declared, names = spec.method.views(spec.settings), self._parts.loader.schedule_names
            self._curves.batch(make_batch(raw, declared, names, self._state.method), self._state.step + 1)

    def save(self) -> None:
        """A checkpoint, by the first process."""
        if not self._writes:
            return
        with self.aside():
            self._state.seconds = self._clock.total
            self._folder.sync()
            checkpoint.save(self.path, self._state, self._parts.spec.identity)

    def refuse_non_finite(self) -> None:
        """Raises RealMixError, naming the step, if a loss since the last line was not finite."""
        state, method = self._state, self._run.method
        good = state.telemetry.first_bad()
        if good is not None:
            raise RealMixError(
                f"the loss of {method} became non-finite at step {state.step - state.telemetry.pending + good + 1}",
                f"the last good checkpoint is '{self.path / checkpoint.FILE}'",
                "try a smaller --set lr, a longer ramp, or --set precision=fp32",
            )

    def _write(self, record: dict[str, Any]) -> None:
        if self._writes:
            self._folder.write_line(record)
        if self._curves is not None:
            self._curves.add(record)


class _Clock:
    """Seconds of the run, and of training since the last line: without evaluations and checkpoints."""

    def __init__(self, before: float) -> None:
        self._before, self._waited, self._started = before, 0.0, time.perf_counter()
        self._lap = self._started

    @property
    def total(self) -> float:
        return self._before + time.perf_counter() - self._started

    def lap(self, waited: float) -> tuple[float, float]:
        """Seconds of training since the last lap, and how many of them were spent waiting for data."""
        now = time.perf_counter()
        seconds, wait = now - self._lap, waited - self._waited
        self._lap, self._waited = now, waited
        return seconds, wait

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """What happens within belongs to no lap."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._lap += time.perf_counter() - started
