"""The training loop: batch, step; lines, evaluations and checkpoints when they are due.

It waits for the device only where a line, an evaluation, a checkpoint or an estimate is due. Of several processes, the
first one evaluates and writes; all stop at the same step.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from stores.errors import Interrupted, RealMixError
from stores.system import interrupts
from trainer import distributed
from trainer.augment.views import Raw, make_batch
from trainer.config import RunConfig
from trainer.contract import Method
from trainer.data.loader import Loader
from trainer.evaluation.evaluator import Evaluator
from trainer.evaluation.mismatch_share import LARGEST, Sample
from trainer.functional import schedules
from trainer.loop.train_step import build_step
from trainer.runs import checkpoint
from trainer.runs.checkpoint import State
from trainer.runs.console import Console
from trainer.runs.run_dir import Run
from trainer.runs.trackers import Curves

AGREE_EVERY = 10  # steps between two questions whether any process was told to stop
ESTIMATES = 20  # of γ in a run, as far as the next line allows
ESTIMATE_EVERY = (100, 500)  # steps between two of them, at least and at most


def train(
    state: State, method: Method, settings: Any, run: RunConfig, loader: Loader, evaluator: Evaluator, folder: Run,
    identity: dict[str, Any], console: Console, curves: Curves | None, sample: Sample | None = None,
) -> None:  # fmt: skip
    """Train from `state.step` to the end of the run, with a line, an evaluation and a checkpoint at the last step.

    Args:
        sample: the images that γ is estimated from, in the first process, where the method asks for it.

    Raises:
        RealMixError: the loss became non-finite, and the last good checkpoint is left as it was; or a step's images
            could not be read, and a checkpoint of the step before was written.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP; a checkpoint was written.
    """
    assert run.eval_every is not None, "a resolved configuration"
    assert run.checkpoint_every is not None
    step = build_step(state, method, settings, run, loader.schedule_names)
    clock = _Clock(state.seconds)
    first, shown = distributed.rank() == 0, (state.step, run.steps - 1)

    estimates = method.views(settings).mismatch

    def due(every: int) -> bool:
        return state.step % every == 0 or state.step == run.steps

    def note(record: dict[str, Any]) -> None:
        if not first:
            return
        folder.write_line(record)
        if curves is not None:
            curves.add(record)

    def log(waited: float) -> None:
        steps = state.telemetry.pending
        lr = schedules.learning_rate(run.lr_schedule, run.lr, state.step - 1, run.steps)
        record = {"kind": "train", "step": state.step, "lr": lr, **state.telemetry.flush()}
        seconds, wait = clock.lap(waited)
        record |= {
            "images_per_s": steps * loader.images_per_step / seconds,
            "data_wait": wait / seconds,
            "seconds": clock.total,
        }
        note(record)
        console.logged(record)

    def evaluate() -> None:
        with clock.aside():
            errors, state.confusion = evaluator.run(state.ema, raw=run.eval_raw or state.step == run.steps)
        state.history.append({"step": state.step, **errors})
        record = {"kind": "eval", **state.history[-1], "seconds": clock.total}
        note(record)
        if curves is not None:
            curves.confusion(state.confusion, state.step)
        console.evaluated(record)

    def estimate() -> None:
        with clock.aside():
            if sample is not None:
                state.ema.apply_to(evaluator.model)
                state.method["gamma"].fill_(min(sample.share(evaluator), LARGEST))
            distributed.from_first(state.method["gamma"])

    def show(raw: Raw) -> None:
        with clock.aside():
            batch = make_batch(raw, method.views(settings), loader.schedule_names, state.method)
            if curves is not None:
                curves.batch(batch, state.step + 1)

    def save() -> None:
        with clock.aside():
            state.seconds = clock.total
            folder.sync()
            checkpoint.save(folder.path, state, identity)

    def save_last() -> None:
        """The last whole step, without what is due after it."""
        refuse_non_finite(state, run, folder)
        if first:
            save()

    again = f"continue with `realmix-train --resume {folder.path}`"
    alone = distributed.world() == 1
    if loader.views.second:
        loader.replace_second(state.method["second"], state.step)
    with (
        loader,
        # several processes stop at the same step, which needs its images
        interrupts.held(loader.stop if alone else lambda: None) as stopped,
    ):
        while state.step < run.steps:
            try:
                raw = next(loader)
            except Exception as error:  # whatever keeps a step's images away, the steps before it are good
                if not stopped():
                    if first:
                        _save_before(error, save_last, f"step {state.step:,} is saved: {again}")
                    raise
                save_last()
                raise Interrupted(f"interrupted at step {state.step}", hint=again) from error
            if curves is not None and state.step in shown:
                show(raw)
            state.telemetry.add(step(raw), raw.ood)
            state.step += 1
            console.tick(state.step, loader.waited)
            # several processes ask one another only now and then: each question is a message to all
            stop = stopped() if alone else due(AGREE_EVERY) and distributed.agree(stopped())
            estimated = estimates and due(estimate_every(run.steps))
            if estimated or due(run.log_every) or due(run.eval_every) or due(run.checkpoint_every) or stop:
                refuse_non_finite(state, run, folder)
            if estimated:
                estimate()
            if due(run.log_every):
                log(loader.waited)
            if first and due(run.eval_every):
                evaluate()
            if first and (due(run.checkpoint_every) or stop):
                save()
            if stop:
                raise Interrupted(f"interrupted at step {state.step}", hint=again)


def _save_before(error: Exception, save: Callable[[], None], hint: str) -> None:
    """Save before an error ends the run, and let it say so; where that fails too, the error is as it was."""
    with contextlib.suppress(OSError, RealMixError):
        save()
        if isinstance(error, RealMixError):
            error.hint = "\n  ".join(filter(None, (error.hint, hint)))


def estimate_every(steps: int) -> int:
    """Steps between two estimates of γ in a run of so many."""
    least, most = ESTIMATE_EVERY
    return max(least, min(most, steps // ESTIMATES))


def refuse_non_finite(state: State, run: RunConfig, folder: Run) -> None:
    """Raises RealMixError, naming the step, if a loss since the last line was not finite."""
    good = state.telemetry.first_bad()
    if good is not None:
        step = state.step - state.telemetry.pending + good + 1
        raise RealMixError(
            f"the loss of {run.method} became non-finite at step {step}",
            f"the last good checkpoint is '{folder.path / checkpoint.FILE}'",
            "try a smaller --set lr, a longer ramp, or --set precision=fp32",
        )


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
